"""Takes a directory with directories in it out of the outbox: every name, link and size there is untrusted.

Each level is opened from the one above without following links, so that nothing outside can be reached, whatever the
worker changes meanwhile.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from ci.subjects.disk_watch import RESERVED_BYTES
from ci.subjects.exchange import MAX_COPIED_BYTES, MAX_FILES, check_plain, copy_file, list_names, open_untrusted
from ci.subjects.failure import SubjectProtocolError, to_one_line

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH = 4
"""Levels of directories below the one that is taken."""


@dataclass
class _Budget:
    """What is left of the room on the disk and of the number of files."""

    room: int
    files: int = MAX_FILES

    def use(self, size: int, where: Path) -> None:
        self.room, self.files = self.room - size, self.files - 1
        if self.files < 0:
            raise SubjectProtocolError(f"{where}: more than {MAX_FILES} files")


def copy_tree(source: Path, target: Path) -> None:
    """Copy plain files and directories of `source` into the new directory `target`.

    Raises SubjectProtocolError for a link, a special file, too many files or levels, and what does not fit on the disk;
    InfrastructureError where `target` cannot be written.
    """
    try:
        target.mkdir(parents=True)
        budget = _Budget(shutil.disk_usage(target).free - RESERVED_BYTES)

        def copy(directory: int, name: str, shown: Path) -> None:
            budget.use(copy_file(directory, name, shown.parent, target / shown.relative_to(source), budget.room), shown)

        _walk(source, copy, make=lambda shown: (target / shown.relative_to(source)).mkdir())
    except OSError as problem:
        raise InfrastructureError(f"{target}: cannot be written: {problem.strerror}") from None


def move_tree(source: Path, target: Path) -> None:
    """Move a directory of plain files and directories, once no process of the program is left. Raises as above."""
    budget = _Budget(0)

    def check(directory: int, name: str, shown: Path) -> None:
        check_plain(os.stat(name, dir_fd=directory, follow_symlinks=False), shown)
        budget.use(0, shown)

    _walk(source, check, make=lambda _: None)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    except OSError as problem:
        raise InfrastructureError(f"{target}: cannot be written: {problem.strerror}") from None


def fits_tree_copy(source: Path) -> bool:
    """Return whether a tree is small enough to be copied while the worker goes on."""
    total = 0
    for folder, _, files in os.walk(source):
        for name in files:
            try:
                total += Path(folder, name).lstat().st_size
            except OSError:
                return True  # the copy says what is wrong
        if total > MAX_COPIED_BYTES:
            return False
    return True


def _walk(source: Path, visit: Callable[[int, str, Path], None], *, make: Callable[[Path], None]) -> None:
    """Visit each file below `source` by its directory's descriptor; call `make` for each directory before its files."""

    def descend(directory: int, shown: Path, depth: int) -> None:
        for name in list_names(directory, shown):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                visit(directory, name, shown / name)
                continue
            if depth == MAX_DEPTH:
                raise SubjectProtocolError(f"{to_one_line(str(shown / name))}: more than {MAX_DEPTH} levels")
            make(shown / name)
            _inside(open_untrusted(shown / name, os.O_DIRECTORY, directory, name), shown / name, depth + 1)

    def _inside(opened: int, shown: Path, depth: int) -> None:
        try:
            descend(opened, shown, depth)
        finally:
            os.close(opened)

    _inside(open_untrusted(source, os.O_DIRECTORY, None, str(source)), source, 0)
