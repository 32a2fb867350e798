"""Files that two processes share: written whole or not at all, and locks that a dead process cannot keep."""

from __future__ import annotations

import fcntl
import os
from typing import IO, TYPE_CHECKING

from ci.errors import InfrastructureError

if TYPE_CHECKING:
    from pathlib import Path


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a temporary file beside `path`, fsync it, and rename it over `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def acquire_lock(path: Path, *, what: str, shared: bool = False, wait: bool = False) -> IO[str]:
    """Lock a file until the returned file is closed or this process dies.

    Raises InfrastructureError, which names the holder, when another process has the lock and `wait` is false.
    """
    file = path.open("a+")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.seek(0)
        holder = file.read(100).strip()
        file.close()
        raise InfrastructureError(
            f"{what} is taken by {holder or 'another process'} ({path}); try again later"
        ) from None
    if not shared:
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
    return file
