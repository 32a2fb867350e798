"""Lock files by which two processes never build or remove one environment at once: flock(2) ends with its process."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def hold_lock(path: Path, tell: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file, so that two processes never build one environment; `tell` that another one holds it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def try_lock(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file and yield whether it is free. Raises InfrastructureError where it cannot be written."""
    try:
        file = path.open("w")
    except OSError as problem:
        raise InfrastructureError(f"{path.parent}: cannot be changed: {problem.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
