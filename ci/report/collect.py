"""A folder of results → each entry's attempts, read as hostile data. The room's one place that reads artifacts.

    RESULTS/<entry>/junit.xml                one attempt (the first)
    RESULTS/<entry>.<attempt>/junit.xml      as downloaded from Actions: one folder an artifact; `hub-tests-` may
                                             stand before the entry
    RESULTS/<entry>.<attempt>.zip            the same, not unpacked: members are read by name, nothing is extracted
    RESULTS/junit.xml                        every entry in one file, as `hub-tests run` leaves it; the files named
                                             next tell such a folder even where the result file is missing

Beside `junit.xml` may lie `running.txt` (ids of the tests that had begun and not ended, one a line: a crash names the
test that was running), `ended.txt` (why the suite was ended before its end, one line) and `host.json` (the machine's
identity, a flat object). Links are never followed.
"""

from __future__ import annotations

import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.report.escape import one_line
from ci.report.junit import Junit, read_junit
from ci.report.limits import INPUT, InputLimits
from ci.report.outcome import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ci.report.results import Found

JUNIT, RUNNING, ENDED, HOST = "junit.xml", "running.txt", "ended.txt", "host.json"
_NAME = re.compile(r"(?:hub-tests-)?(?P<entry>[a-z0-9][a-z0-9_-]{0,62})(?:\.(?P<attempt>[1-9]\d{0,3}))?(?:\.zip)?")
_SMALL = 64 * 1024


def collect(folder: Path, limits: InputLimits = INPUT) -> Found:
    """What lies in `folder`. Raises RequestError where there is no such folder; all else is a finding, not an error."""
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder of results")
    if any(os.path.lexists(folder / name) for name in (JUNIT, RUNNING, HOST)):
        return _from(lambda name, cap: _plain_file(folder / name, cap), 1, limits)
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.iterdir())[: limits.files]:
        name = _NAME.fullmatch(path.name)
        if name and not path.is_symlink():
            found.setdefault(name["entry"], []).append((int(name["attempt"] or 1), path))
    return Folder(found, limits)


class Folder(Mapping[str, "Sequence[Attempt]"]):
    """Attempts by entry, read each time they are asked for: 256 result files never lie in memory together."""

    def __init__(self, paths: Mapping[str, Sequence[tuple[int, Path]]], limits: InputLimits) -> None:
        self._paths = paths
        self._limits = limits

    def __getitem__(self, entry: str) -> Sequence[Attempt]:
        """The attempts of `entry`."""
        return tuple(_attempt(path, number, self._limits) for number, path in self._paths[entry])

    def __iter__(self) -> Iterator[str]:
        """The entries that left something."""
        return iter(self._paths)

    def __len__(self) -> int:
        """How many entries left something."""
        return len(self._paths)

    def __contains__(self, entry: object) -> bool:
        """Whether `entry` left something, without reading it."""
        return entry in self._paths


def _attempt(path: Path, number: int, limits: InputLimits) -> Attempt:
    if path.is_dir():
        return _from(lambda name, cap: _plain_file(path / name, cap), number, limits)
    try:
        with zipfile.ZipFile(path) as archive:
            return _from(lambda name, cap: _member(archive, name, cap, limits), number, limits)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, ValueError, EOFError) as error:
        return Attempt(number, Junit(problem=f"unreadable archive ({one_line(str(error), 80)})"))


def _from(read: Callable[[str, int], bytes | None], number: int, limits: InputLimits) -> Attempt:
    content = read(JUNIT, limits.xml_bytes + 1)
    return Attempt(
        number=number,
        junit=Junit(problem="no result file", missing=True) if content is None else read_junit(content, limits),
        running=_lines(read(RUNNING, _SMALL), limits),
        ended=next(iter(_lines(read(ENDED, _SMALL), limits)), ""),
        host=_flat(read(HOST, _SMALL), limits),
    )


def _plain_file(path: Path, cap: int) -> bytes | None:
    """At most `cap` bytes of a plain file; None where there is none or it is a link."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        with path.open("rb") as file:
            return file.read(cap)
    except OSError:
        return None


def _member(archive: zipfile.ZipFile, name: str, cap: int, limits: InputLimits) -> bytes | None:
    """At most `cap` bytes of the member called exactly `name`, which never touches the disk."""
    if len(archive.infolist()) > limits.files or name not in archive.namelist():
        return None
    facts = archive.getinfo(name)
    if stat.S_ISLNK(facts.external_attr >> 16):
        return None
    if facts.file_size > limits.archive_ratio * max(facts.compress_size, 1024):
        raise ValueError(f"{name} unpacks to {facts.file_size} bytes")
    with archive.open(facts) as member:
        return member.read(cap)


def _lines(content: bytes | None, limits: InputLimits) -> tuple[str, ...]:
    """Test ids out of `running.txt`; a node id is cut down to its last part."""
    lines = (content or b"").decode("utf-8", "replace").splitlines()[:64]
    return tuple(one_line(line.rsplit("::", 1)[-1], limits.name_chars) for line in lines if line.strip())


def _flat(content: bytes | None, limits: InputLimits) -> dict[str, str]:
    """The scalar values of `host.json`; nothing where it is not a JSON object."""
    try:
        plain = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(plain, dict):
        return {}
    scalars = [(k, v) for k, v in plain.items() if isinstance(v, str | int | float | bool)][:64]
    return {one_line(k, 60): one_line(str(v), limits.name_chars) for k, v in scalars}
