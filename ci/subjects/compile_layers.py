"""Compiled code on disk, as layers: what one trusted run compiled, in one file that is never changed.

A layer is an uncompressed tar with a header and plain files. It is called after the key of what it is valid for and the
SHA-256 of its bytes. So it appears by one rename, two runs at once write two layers, and a damaged one is recognized.
hub-tests itself never loads what a layer holds: it is code, and it runs where the subject runs.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import tarfile
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ci.errors import InfrastructureError
from ci.subjects.disk_watch import RESERVED_BYTES
from ci.subjects.exchange import MAX_NAME
from ci.subjects.failure import to_one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

FILE_NAME = re.compile(r"([0-9a-f]{32})-([0-9a-f]{64})\.tar")
HEADER = "hub-tests-layer"
PART = ".part"
STALE_PART_SECONDS = 86400
MAX_FILES = 2**18
"""Files and directories of one copy."""
MAX_DEPTH = 12
MAX_LAYER_BYTES = 2 * 2**30
MAX_CACHE_BYTES = 16 * 2**30
"""All layers of a machine together; the least recently used are removed beyond it."""

SCRATCH = re.compile(r"tmp\..*|locks?|.*\.(lock|tmp)")
"""What Triton and Inductor leave while they work: no later run needs it."""


class LayerError(InfrastructureError):
    """A layer, or what should become one, is not what it must be."""


@dataclass(frozen=True)
class Layer:
    """One layer on disk; `used_at` in seconds since 1970."""

    path: Path
    key: str
    digest: str
    size: int
    used_at: float


def list_layers(root: Path, key: str | None = None) -> tuple[Layer, ...]:
    """List the layers under `root` that are valid for `key`, the last used first."""
    layers = []
    for path in root.glob("*.tar"):
        name = FILE_NAME.fullmatch(path.name)
        with suppress(FileNotFoundError):  # removed by another run
            status = path.lstat()
            if name and key in (None, name[1]) and stat.S_ISREG(status.st_mode):
                layers.append(Layer(path, name[1], name[2], status.st_size, status.st_mtime))
    return tuple(sorted(layers, key=lambda layer: (-layer.used_at, layer.path.name)))


def write_layer(
    source: Path, root: Path, key: str, known: Collection[str], max_bytes: int = MAX_LAYER_BYTES
) -> Layer | None:
    """Write the new files below `source` as a layer; None where there are none.

    Files of `known` names are not new.
    `source` was written by the subject, of which no process is left. Raises LayerError for anything but plain files of
    limited number, size and depth, and OSError where the layer cannot be written.
    """
    room = min(max_bytes, shutil.disk_usage(root).free - RESERVED_BYTES)
    descriptor, name = tempfile.mkstemp(suffix=PART, dir=root)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            if not _write_members(file, source, key, known, room):
                return None
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fchmod(file.fileno(), 0o644)
        path = root / f"{key}-{digest}.tar"
        part.rename(path)
        return Layer(path, key, digest, path.stat().st_size, time.time())
    finally:
        part.unlink(missing_ok=True)


def unpack_layer(layer: Layer, target: Path, known: Collection[str], made: Callable[[Path], None]) -> dict[str, int]:
    """Write the files of a layer below `target`; return their sizes by name.

    Files of `known` names are left out.
    `made` is called with each new file and directory. Raises LayerError for a layer that is damaged, or that belongs to
    another key, before anything is written; OSError where `target` cannot be written.
    """
    with _open_layer(layer.path) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != layer.digest:
            raise LayerError(f"{layer.path}: damaged: its content is not what its name says")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                return _unpack(archive, layer, target, known, made)
        except (tarfile.TarError, EOFError, ValueError) as wrong:
            raise LayerError(f"{layer.path}: not a layer: {to_one_line(str(wrong), 200)}") from None


def touch_layer(layer: Layer) -> None:
    """Note that a run uses a layer now; a read-only mount keeps its own time."""
    with suppress(OSError):
        os.utime(layer.path, follow_symlinks=False)


def remove_layer(layer: Layer) -> None:
    """Remove a layer; a run that reads it still reads all of it."""
    with suppress(OSError):
        layer.path.unlink()


def prune_layers(
    root: Path, *, max_bytes: int = MAX_CACHE_BYTES, older_than: float | None = None, dry_run: bool = False
) -> tuple[Layer, ...]:
    """Remove layers beyond `max_bytes`, least recently used first, and those unused for `older_than` seconds."""
    now, kept, removed = time.time(), 0, []
    for layer in list_layers(root):
        kept += layer.size
        if kept > max_bytes or (older_than is not None and now - layer.used_at > older_than):
            kept -= layer.size
            removed.append(layer)
    for layer in removed if not dry_run else ():
        remove_layer(layer)
    for part in root.glob(f"*{PART}") if not dry_run else ():
        with suppress(OSError):
            if now - part.lstat().st_mtime > STALE_PART_SECONDS:
                part.unlink()
    return tuple(removed)


def _write_members(file: IO[bytes], source: Path, key: str, known: Collection[str], room: int) -> int:
    """Write header and files into a tar, and return the number of files."""
    count, left = 0, room
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, HEADER, io.BytesIO(key.encode()), len(key))
        for name, descriptor, size in iter_plain_files(source):
            if name in known:
                continue
            count, left = count + 1, left - size
            if left < 0:
                raise LayerError(f"{to_one_line(name)}: the new files have more than {room} bytes")
            with os.fdopen(os.dup(descriptor), "rb") as opened:
                _add(archive, name, opened, size)
    return count


def _add(archive: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    """Add a file without owner, time and permissions of its own: equal content is an equal layer."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    archive.addfile(member, content)


def iter_plain_files(source: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the name, an open descriptor and the size of each file below `source`, by name.

    Raises LayerError for a link, a device, a second name of a file, an odd name, too many names and too deep a tree.
    """
    descriptor = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield from _Walk(MAX_FILES).run(descriptor, "", MAX_DEPTH)
    finally:
        os.close(descriptor)


@dataclass
class _Walk:
    """A walk through a tree that may be hostile; `left` names may still be read."""

    left: int

    def run(self, directory: int, prefix: str, depth: int) -> Iterator[tuple[str, int, int]]:
        """Yield the files below an open directory, whose name is `prefix`."""
        for name in self._list_names(directory, prefix):
            path = f"{prefix}{name}"
            descriptor = _open_plain(directory, name, path)
            try:
                status = os.fstat(descriptor)
                if stat.S_ISREG(status.st_mode):
                    yield path, descriptor, status.st_size
                elif depth == 0:
                    raise LayerError(f"{to_one_line(path, 200)}: deeper than {MAX_DEPTH} directories")
                else:
                    yield from self.run(descriptor, f"{path}/", depth - 1)
            finally:
                os.close(descriptor)

    def _list_names(self, directory: int, prefix: str) -> list[str]:
        names: list[str] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                self.left -= 1
                if self.left < 0:
                    raise LayerError(f"{to_one_line(prefix, 200)}: more than {MAX_FILES} files and directories")
                if len(entry.name) > MAX_NAME or not entry.name.isprintable():
                    raise LayerError(f"{to_one_line(prefix, 200)}: a file name of {len(entry.name)} odd characters")
                if not SCRATCH.fullmatch(entry.name):
                    names.append(entry.name)
        return sorted(names)


def _open_plain(directory: int, name: str, path: str) -> int:
    """Open a directory, or a file without a second name.

    What it is is looked at first: to open a device is to use it.
    """
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not (stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)):
        raise LayerError(f"{to_one_line(path, 200)}: neither a directory nor a plain file of its own")
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as problem:
        raise LayerError(f"{to_one_line(path, 200)}: cannot be read: {problem.strerror}") from None


def _open_layer(path: Path) -> io.BufferedReader:
    """Open a layer for reading. Raises LayerError for anything but a plain file of limited size."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        raise LayerError(f"{path}: cannot be read: {problem.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > 2 * MAX_LAYER_BYTES:
        os.close(descriptor)
        raise LayerError(f"{path}: not a plain file of at most {2 * MAX_LAYER_BYTES} bytes")
    return os.fdopen(descriptor, "rb")


def _unpack(
    archive: tarfile.TarFile, layer: Layer, target: Path, known: Collection[str], made: Callable[[Path], None]
) -> dict[str, int]:
    """Check the header and all names, then write the files."""
    header = archive.next()
    content = archive.extractfile(header) if header and header.name == HEADER and header.isreg() else None
    if content is None or content.read(64).decode("ascii") != layer.key:
        raise LayerError(f"{layer.path}: made for another environment, driver or GPU than its name says")
    members = archive.getmembers()[1:]
    for member in members:
        parts = member.name.split("/")
        if (
            member.type != tarfile.REGTYPE
            or len(parts) > MAX_DEPTH + 1
            or member.issparse()  # a few bytes would become terabytes
            or not member.name.isprintable()
            or any(part in ("", ".", "..") or len(os.fsencode(part)) > MAX_NAME for part in parts)
        ):
            raise LayerError(f"{layer.path}: {to_one_line(member.name, 200)}: not a plain file below its directory")
    new = [member for member in members if member.name not in known]
    _check_places(layer, target, [member.name for member in new])
    for member in new:
        _make_parents(target, Path(member.name).parent, made)
        path, opened = target / member.name, archive.extractfile(member)
        assert opened is not None  # noqa: S101 (a plain file)
        with path.open("xb") as copy:
            shutil.copyfileobj(opened, copy, 2**20)
        made(path)
    return {member.name: member.size for member in new}


def _check_places(layer: Layer, target: Path, names: list[str]) -> None:
    """Raise LayerError where a layer, this or another, has a file for a directory, the reverse, or a name twice."""
    parents = {str(parent) for name in names for parent in Path(name).parents}
    taken = [name for name in names if name in parents or (target / name).exists()]
    taken += [parent for parent in parents if (target / parent).is_file()]
    taken += [name for name, count in Counter(names).items() if count > 1]
    if taken:
        raise LayerError(f"{layer.path}: {to_one_line(taken[0], 200)}: a layer has something else in its place")


def _make_parents(target: Path, below: Path, made: Callable[[Path], None]) -> None:
    for directory in (*reversed(below.parents), below):
        path = target / directory
        if not path.is_dir():
            path.mkdir()
            made(path)
