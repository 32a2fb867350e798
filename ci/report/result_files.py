"""Read a folder of result files: the attempts of each entry. The files can be an attack.

    RESULTS/<entry>/junit.xml                one attempt (the first)
    RESULTS/<entry>.<attempt>/junit.xml      as downloaded from Actions: one folder for each artifact; its name may
                                             begin with `hub-tests-` or `upstream-of-hub-tests-`
    RESULTS/<entry>.<attempt>.zip            the same, still packed: members are read by name, nothing is extracted
    RESULTS/junit.xml                        every entry in one file, as `hub-tests run` writes it; `running.txt` or
                                             `host.json` show such a folder even if the result file is missing

Beside `junit.xml` there may be `running.txt` (ids of the tests that had begun and not ended, one in each line: after a
crash it names the test that was running), `ended.txt` (why the suite was stopped early, one line: `time limit of N s`
or `interrupted`), `exit_code.txt` (the suite's exit code, a number; negative if a signal killed it) and `host.json` (a
description of the machine, a flat object). Where `host.json` has `"results_format": "2"`, `exit_code.txt` must be
there: `hub-tests run` writes the one before the suite and the other after it. Links are never followed.
"""

from __future__ import annotations

import gc
import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.report.escape import one_line
from ci.report.junit import JunitFile, read_junit
from ci.report.limits import INPUT, InputLimits
from ci.report.results import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ci.report.results import ResultFiles

JUNIT, RUNNING, ENDED, HOST = "junit.xml", "running.txt", "ended.txt", "host.json"
EXIT_CODE = "exit_code.txt"
INTERRUPTED = "interrupted"
"""What `ended.txt` says of a suite that a user or a cancelled job ended."""
FORMAT_KEY, FORMAT = "results_format", "2"
"""In `host.json`: the folder has an exit code. Folders of older versions have neither."""
_NAME = re.compile(
    r"(?:(?:upstream-of-)?hub-tests-)?(?P<entry>[a-z0-9][a-z0-9_-]{0,62})(?:\.(?P<attempt>[1-9]\d{0,3}))?(?:\.zip)?"
)
_SMALL = 64 * 1024
_EXIT_CODE = re.compile(r"-?\d{1,3}")


def read_result_files(folder: Path, limits: InputLimits = INPUT) -> ResultFiles:
    """Read the result files in `folder`.

    Raises RequestError if there is no such folder. Any other problem is recorded in the attempt.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder of results")
    if any(os.path.lexists(folder / name) for name in (JUNIT, RUNNING, HOST, EXIT_CODE)):
        return _read_attempt(lambda name, cap: _read_plain_file(folder / name, cap), 1, limits)
    paths: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.iterdir())[: limits.files]:
        name = _NAME.fullmatch(path.name)
        if name and not path.is_symlink():
            paths.setdefault(name["entry"], []).append((int(name["attempt"] or 1), path))
    return ResultFolder(paths, limits)


class ResultFolder(Mapping[str, "Sequence[Attempt]"]):
    """Attempts by entry. Each access reads the files again, so 256 result files are never in memory together."""

    def __init__(self, paths: Mapping[str, Sequence[tuple[int, Path]]], limits: InputLimits) -> None:
        self._paths = paths
        self._limits = limits

    def __getitem__(self, entry: str) -> Sequence[Attempt]:
        """Return the attempts of `entry`."""
        return tuple(_open_attempt(path, number, self._limits) for number, path in self._paths[entry])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the entries that have results."""
        return iter(self._paths)

    def __len__(self) -> int:
        """Return how many entries have results."""
        return len(self._paths)

    def __contains__(self, entry: object) -> bool:
        """Return whether `entry` has results, without reading them."""
        return entry in self._paths


def _open_attempt(path: Path, number: int, limits: InputLimits) -> Attempt:
    if path.is_dir():
        return _read_attempt(lambda name, cap: _read_plain_file(path / name, cap), number, limits)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_attempt(lambda name, cap: _read_member(archive, name, cap, limits), number, limits)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, ValueError, EOFError) as error:
        return Attempt(number, JunitFile(problem=f"unreadable archive ({one_line(str(error), 80)})"))


def _read_attempt(read: Callable[[str, int], bytes | None], number: int, limits: InputLimits) -> Attempt:
    content = read(JUNIT, limits.xml_bytes + 1)
    host = _parse_flat_object(read(HOST, _SMALL), limits)
    results_format = host.pop(FORMAT_KEY, "")
    return Attempt(
        number=number,
        junit=JunitFile(problem="no result file", missing=True) if content is None else read_junit(content, limits),
        running=_parse_lines(read(RUNNING, _SMALL), limits),
        ended=next(iter(_parse_lines(read(ENDED, _SMALL), limits)), ""),
        host=host,
        exit_code=_parse_exit_code(read(EXIT_CODE, _SMALL)),
        records_exit_code=results_format == FORMAT,
    )


def _read_plain_file(path: Path, cap: int) -> bytes | None:
    """Return at most `cap` bytes of a file; None if it is missing or a link."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        with path.open("rb") as file:
            return file.read(cap)
    except OSError:
        return None


def _read_member(archive: zipfile.ZipFile, name: str, cap: int, limits: InputLimits) -> bytes | None:
    """Return at most `cap` bytes of the member called exactly `name`, without writing to disk."""
    if len(archive.infolist()) > limits.files or name not in archive.namelist():
        return None
    info = archive.getinfo(name)
    if stat.S_ISLNK(info.external_attr >> 16):
        return None
    if info.file_size > limits.archive_ratio * max(info.compress_size, 1024):
        raise ValueError(f"{name} unpacks to {info.file_size} bytes")
    with archive.open(info) as member:
        return member.read(cap)


def _parse_lines(content: bytes | None, limits: InputLimits) -> tuple[str, ...]:
    """Return the lines of a small file. Of a pytest node id, keep the test id."""
    lines = (content or b"").decode("utf-8", "replace").splitlines()[:64]
    return tuple(one_line(line.rsplit("::", 1)[-1], limits.name_chars) for line in lines if line.strip())


def _parse_exit_code(content: bytes | None) -> int | None:
    """Return the number in `exit_code.txt`; None if it is not one."""
    text = (content or b"").decode("ascii", "replace").strip()
    return int(text) if _EXIT_CODE.fullmatch(text) else None


def _parse_flat_object(content: bytes | None, limits: InputLimits) -> dict[str, str]:
    """Return the scalar values of `host.json`; nothing if it is not a JSON object."""
    try:
        plain = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(plain, dict):
        return {}
    scalars = [(k, v) for k, v in plain.items() if isinstance(v, str | int | float | bool)][:64]
    return {one_line(k, 60): one_line(str(v), limits.name_chars) for k, v in scalars}


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Pause the cycle collector while many records are made.

    Frozen records form no cycles, and searching for cycles takes a third of the time. Afterwards the collector also
    ignores the objects that exist then: reference counts free them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.enable()
