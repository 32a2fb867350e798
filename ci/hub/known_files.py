"""Small files of a model that its other checkpoints in the store already hold: each spares a request to the Hub.

A tokenizer rarely changes from one commit to the next, and not at all with the number of layers. What is found is
compared with the digest in the Hub's list of files, so it is right whoever wrote it.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ci.hub.repository import RemoteFile


def find_known_file(checkpoints: Path, file: RemoteFile) -> bytes | None:
    """Return the content of a listed file from a model's checkpoints; None where none has it.

    `checkpoints` is the directory of the model's complete checkpoints. A file without a digest in the list is unknown.
    """
    if file.sha256 is None and file.blob_id is None:
        return None
    for checkpoint in _list_newest_first(checkpoints):
        content = _read_if_sized(checkpoint / file.path, file.size)
        if content is not None and file.matches(content):
            return content
    return None


def _list_newest_first(checkpoints: Path) -> list[Path]:
    try:
        return sorted(checkpoints.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:  # there is none, or one was just removed
        return []


def _read_if_sized(path: Path, size: int) -> bytes | None:
    """Return a regular file's content if it has `size` bytes."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(handle)
        wanted = stat.S_ISREG(status.st_mode) and status.st_size == size
        return os.read(handle, size) if wanted else None
    except OSError:
        return None
    finally:
        os.close(handle)
