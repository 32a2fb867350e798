"""Files between the judge and a worker: an inbox that the worker reads, an outbox that it writes.

What the worker reads is linked into the inbox, which it sees read-only. What it wrote is taken out of the outbox to
where it cannot change it any more; every name and every size there is untrusted.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from ci.subjects.disk_watch import RESERVED_BYTES
from ci.subjects.failure import SubjectProtocolError, to_one_line
from ci.subjects.sandbox import Isolation, make_accessible

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILES = 4096
MAX_NAME = 200
MAX_COPIED_BYTES = 2**29
"""A larger directory is moved, for which the worker has to end first."""

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass
class Exchange:
    """The two directories below `root`. `visible` are directories that the worker sees at their own paths anyway.

    `compiled` is the worker's own copy of compiled code, where it has one (`ci.subjects.compile_cache`).
    """

    root: Path
    isolation: Isolation
    visible: tuple[Path, ...] = ()
    compiled: Path | None = None
    _staged: dict[Path, tuple[Signature, Path]] = field(default_factory=dict, init=False)
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        for directory in (self.inbox, self.outbox):
            directory.mkdir(parents=True)
        make_accessible(self.isolation, self.outbox)

    @property
    def inbox(self) -> Path:
        """The directory that the worker reads."""
        return self.root / "inbox"

    @property
    def outbox(self) -> Path:
        """The directory that the worker writes."""
        return self.root / "outbox"

    def stage(self, path: Path) -> Path:
        """Return where the worker reads a file or a directory; link it into the inbox where it sees it not yet.

        Raises InfrastructureError where it cannot be linked or copied.
        """
        real = path.resolve()
        if not real.exists() or any(real.is_relative_to(root) for root in self.visible):
            return real  # of one that is missing the worker says so
        self._forget_removed()
        signature = _sign(real)
        if real in self._staged and self._staged[real][0] == signature:
            return self._staged[real][1]
        staged = self._next(self.inbox) / real.name
        try:
            staged.parent.mkdir()
            self._link(real, staged)
        except OSError as problem:
            raise InfrastructureError(f"{path}: cannot be handed to the subject: {problem.strerror}") from None
        self._staged[real] = (signature, staged)
        return staged

    def next_output(self) -> Path:
        """Return a path in the outbox that does not exist yet."""
        return self._next(self.outbox)

    def clear_outbox(self) -> None:
        """Remove everything that the worker wrote. It has to have ended before."""
        for directory in (self.outbox, *([self.compiled] if self.compiled else [])):
            remove_tree(directory)
            directory.mkdir()
            make_accessible(self.isolation, directory)

    def restore_paths(self, message: str) -> str:
        """Replace the inbox's paths in a message by the judge's own."""
        for original, (_, staged) in self._staged.items():
            message = message.replace(str(staged), str(original))
        return message

    def _next(self, directory: Path) -> Path:
        self._count += 1
        return directory / str(self._count)

    def _link(self, source: Path, target: Path) -> None:
        """Link files hard, directories file by file; a link to something visible stays a link."""
        if source.is_dir():
            target.mkdir()
            for child in source.iterdir():
                self._link(child, target / child.name)
            return
        real = source.resolve()
        if source.is_symlink() and any(real.is_relative_to(root) for root in self.visible):
            target.symlink_to(real)
            return
        if self.isolation.as_root:
            real.chmod(stat.S_IMODE(real.stat().st_mode) | 0o444)  # the worker is another user
        link_or_copy(real, target)

    def _forget_removed(self) -> None:
        """Remove from the inbox what the judge has removed, so that its bytes are freed."""
        for original, (_, staged) in list(self._staged.items()):
            if not original.exists():
                shutil.rmtree(staged.parent, ignore_errors=True)
                del self._staged[original]


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Link a file hard, or copy it where it lies on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def hostile_directory(prefix: str) -> Iterator[Path]:
    """Make a temporary directory that programs under test write to, and remove it whatever they wrote."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    finally:
        remove_tree(directory)


def remove_tree(directory: Path) -> None:
    """Remove a directory, however deep: Python's own functions end at the limit of recursion."""
    environment, where = {"PATH": "/usr/bin:/bin"}, ["--", str(directory)]
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        if os.path.lexists(directory):  # as another user than root, directories without permissions need the second
            subprocess.run([*command, *where], env=environment, capture_output=True, check=False)  # noqa: S603


def fits_copy(source: Path) -> bool:
    """Return whether a directory is small enough to be copied while the worker goes on."""
    try:
        with os.scandir(source) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries) <= MAX_COPIED_BYTES
    except OSError:
        return True  # the copy says what is wrong


def copy_directory(source: Path, target: Path) -> None:
    """Copy the plain files of `source` into the new directory `target`, whatever happens to `source` meanwhile.

    Raises SubjectProtocolError for anything but plain files, for too many of them, and where they do not fit on the
    disk; InfrastructureError where `target` cannot be written.
    """
    directory = open_untrusted(source, os.O_DIRECTORY, None, str(source))
    try:
        target.mkdir(parents=True)
        room = shutil.disk_usage(target).free - RESERVED_BYTES
        for name in list_names(directory, source):
            room -= copy_file(directory, name, source, target / name, room)
    except OSError as problem:
        raise InfrastructureError(f"{target}: cannot be written: {problem.strerror}") from None
    finally:
        os.close(directory)


def move_directory(source: Path, target: Path) -> None:
    """Move a directory of plain files, once no process of the program is left.

    Raises SubjectProtocolError for anything but plain files.
    """
    directory = open_untrusted(source, os.O_DIRECTORY, None, str(source))
    try:
        for name in list_names(directory, source):
            check_plain(os.stat(name, dir_fd=directory, follow_symlinks=False), source / name)
    finally:
        os.close(directory)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    except OSError as problem:
        raise InfrastructureError(f"{target}: cannot be written: {problem.strerror}") from None


def list_names(directory: int, source: Path) -> list[str]:
    """List what lies in an open directory. Raises SubjectProtocolError for too many names, and for odd ones."""
    names: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if len(names) == MAX_FILES:
                raise SubjectProtocolError(f"{source}: more than {MAX_FILES} files")
            if len(entry.name) > MAX_NAME or not entry.name.isprintable():
                raise SubjectProtocolError(f"{source}: a file name of {len(entry.name)} odd characters")
            names.append(entry.name)
    return sorted(names)


def copy_file(directory: int, name: str, source: Path, target: Path, room: int) -> int:
    """Copy one plain file of an open directory, as long as it is now, and return its bytes."""
    opened = open_untrusted(source / name, os.O_NONBLOCK, directory, name)
    try:
        status = os.fstat(opened)
        check_plain(status, source / name)
        if status.st_size > room:
            raise SubjectProtocolError(f"{source / name}: {status.st_size} bytes do not fit on the disk")
        with target.open("xb") as copy:
            left = status.st_size
            while left and (sent := os.sendfile(copy.fileno(), opened, None, min(left, 2**30))):
                left -= sent
        if left:
            raise SubjectProtocolError(f"{source / name}: became shorter while it was read")
        return status.st_size
    finally:
        os.close(opened)


def open_untrusted(shown: Path, flags: int, directory: int | None, name: str) -> int:
    """Open `name` in an open directory without following a link, and return the descriptor.

    Raises SubjectProtocolError.
    """
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=directory)
    except OSError as problem:
        raise SubjectProtocolError(f"{to_one_line(str(shown))}: cannot be read: {problem.strerror}") from None


def check_plain(status: os.stat_result, path: Path) -> None:
    """Raise SubjectProtocolError for anything but a plain file with one name."""
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise SubjectProtocolError(f"{to_one_line(str(path))}: not a plain file of its own")


def _sign(path: Path) -> Signature:
    """Describe what lies at a path, so that a path used again is recognized."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    statuses = [(file, file.lstat()) for file in files]
    return tuple((str(file), status.st_ino, status.st_size, status.st_mtime_ns) for file, status in statuses)
