"""Files that a program under test left behind, taken to where it cannot change them. Every name and size is hostile."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from ci.errors import InfrastructureError
from ci.subjects.failure import SubjectProtocolError, one_line

MAX_FILES = 4096
MAX_NAME = 200
RESERVED_BYTES = 2**30
"""Bytes that stay free on the disk, so that results can still be written."""


def copy_directory(source: Path, target: Path) -> None:
    """Copy the plain files of `source` into the new directory `target`, whatever happens to `source` meanwhile.

    Raises SubjectProtocolError for anything but plain files, for too many of them, and where they do not fit on the
    disk; InfrastructureError where `target` cannot be written.
    """
    directory = _open(source, os.O_DIRECTORY, None)
    try:
        target.mkdir(parents=True)
        room = shutil.disk_usage(target).free - RESERVED_BYTES
        for name in _names(directory, source):
            room -= _copy_file(directory, name, source, target / name, room)
    except OSError as problem:
        raise InfrastructureError(f"{target}: cannot be written: {problem.strerror}") from None
    finally:
        os.close(directory)


def move_directory(source: Path, target: Path) -> None:
    """Move a directory of plain files, once no process of the program is left.

    Raises SubjectProtocolError for anything but plain files.
    """
    directory = _open(source, os.O_DIRECTORY, None)
    try:
        for name in _names(directory, source):
            _check_plain(os.stat(name, dir_fd=directory, follow_symlinks=False), source / name)
    finally:
        os.close(directory)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    except OSError as problem:
        raise InfrastructureError(f"{target}: cannot be written: {problem.strerror}") from None


def _names(directory: int, source: Path) -> list[str]:
    names: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if len(names) == MAX_FILES:
                raise SubjectProtocolError(f"{source}: more than {MAX_FILES} files")
            if len(entry.name) > MAX_NAME or not entry.name.isprintable():
                raise SubjectProtocolError(f"{source}: a file name of {len(entry.name)} odd characters")
            names.append(entry.name)
    return sorted(names)


def _copy_file(directory: int, name: str, source: Path, target: Path, room: int) -> int:
    """Copy one file as long as it is now, and return its bytes."""
    opened = _open(Path(name), os.O_NONBLOCK, directory, shown=source / name)
    try:
        status = os.fstat(opened)
        _check_plain(status, source / name)
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


def _open(path: Path, flags: int, directory: int | None, *, shown: Path | None = None) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=directory)
    except OSError as problem:
        raise SubjectProtocolError(f"{one_line(str(shown or path))}: cannot be read: {problem.strerror}") from None


def _check_plain(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise SubjectProtocolError(f"{one_line(str(path))}: not a plain file of its own")
