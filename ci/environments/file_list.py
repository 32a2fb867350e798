"""The list of an environment's files with their hashes, and what differs from it later."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator


def compare_files(path: Path, text: str, own: Collection[str]) -> tuple[str, ...]:
    """Hash every file below `path` and say what differs from the list `text`; `own` names at the top are left out."""
    before, after = _by_name(text.splitlines()), _by_name(iter_file_lines(path, own))
    gone = [f"{name} is missing" for name in before.keys() - after.keys()]
    new = [f"{name} was added" for name in after.keys() - before.keys()]
    changed = [f"{name} was changed" for name in before.keys() & after.keys() if before[name] != after[name]]
    return (*sorted(gone), *sorted(new), *sorted(changed))


def iter_file_lines(path: Path, own: Collection[str]) -> Iterator[str]:
    """Yield `digest  name` of every file and link below `path`, except our `own`."""
    for directory, folders, names in os.walk(path):
        folders.sort()
        links = [name for name in folders if (Path(directory) / name).is_symlink()]
        for name in sorted([*names, *links]):
            file = Path(directory) / name
            if file.parent == path and name in own:
                continue
            if not file.is_symlink() and not file.is_file():
                continue  # a pipe or a socket of an image has no content
            content = str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()
            kind = "link:" if file.is_symlink() else ""
            yield f"{kind}{hashlib.sha256(content).hexdigest()}  {_to_word(str(file.relative_to(path)))}"


def _to_word(name: str) -> str:
    """Return a name that fits into one line of UTF-8; only odd ones are changed."""
    return name if name.isprintable() else ascii(name)


def _by_name(lines: Iterable[str]) -> dict[str, str]:
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
