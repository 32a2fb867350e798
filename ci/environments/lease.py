"""Leases of base environments: what a living process uses is not removed. The kernel ends a lease with its process.

The lock (flock(2)) is on the environment's manifest, opened for reading, so that it also holds where a job sees the
environment through a read-only mount and as another user.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def lease(manifest: Path) -> Iterator[bool]:
    """Hold a lease while the block runs, beside others; yield whether the environment is still there."""
    with _lock(manifest, fcntl.LOCK_SH) as held:  # waits while it is being removed
        yield held


@contextmanager
def claim(manifest: Path) -> Iterator[bool]:
    """Yield whether no process holds a lease; while the block runs none gets one."""
    with _lock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
        yield held


@contextmanager
def _lock(manifest: Path, operation: int) -> Iterator[bool]:
    """Lock a manifest while the block runs; yield whether it is locked, and still the one that has the name."""
    try:
        descriptor = os.open(manifest, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        yield _try_lock(descriptor, operation) and _is_same(descriptor, manifest)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    return True


def _is_same(descriptor: int, manifest: Path) -> bool:
    """Return whether the file that is locked is still the one that has the name."""
    try:
        return os.path.samestat(os.fstat(descriptor), manifest.stat())
    except OSError:
        return False
