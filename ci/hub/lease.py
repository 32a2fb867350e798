"""Who is using something in a store that many machines may share, without locks that a dead process could leave.

A lease is a small file that names its process. It ends when that process is gone, or, when it cannot be looked up from
here (another machine, another container), a while after its last beat. No flock: Lustre, GPFS and some NFS ignore it.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ci.errors import HubTestsError, InfrastructureError
from ci.records import read_json, to_json


@dataclass(frozen=True)
class Owner:
    """A process: where it can be looked up, its number there and when it started (clock ticks, 0 where unknown)."""

    place: str
    pid: int
    started: int


@dataclass(frozen=True)
class Lease:
    """The file at `path` says that this process uses something."""

    path: Path

    def beat(self) -> None:
        """Say that the process is still there."""
        with suppress(OSError):
            os.utime(self.path)

    def end(self) -> None:
        """Give it up."""
        with suppress(OSError):
            self.path.unlink()


def take(directory: Path, name: str) -> Lease:
    """A lease of this process at `directory/name.<unique>.lease`."""
    path = directory / f"{name}.{uuid.uuid4().hex[:8]}.lease"
    path.write_text(to_json(_me()), encoding="utf-8")
    return Lease(path)


def is_live(path: Path, *, silence: float) -> bool:
    """Whether the lease at `path` still holds; `silence` is how many seconds without a beat end it at the latest."""
    try:
        age = time.time() - path.stat().st_mtime
        owner = read_json(Owner, path.read_bytes(), what=str(path), error=InfrastructureError)
    except (OSError, HubTestsError):
        return False
    if age > silence:
        return False
    return owner.place != _place() or (_exists(owner.pid) and _started(owner.pid) == owner.started)


def drop_dead(directory: Path, pattern: str, *, silence: float) -> None:
    """Remove the leases of `pattern` that have ended."""
    for path in directory.glob(f"{pattern}.lease"):
        if not is_live(path, silence=silence):
            Lease(path).end()


def _me() -> Owner:
    return Owner(_place(), os.getpid(), _started(os.getpid()))


@cache
def _place() -> str:
    """Names the set of processes that can be looked up from here: host, boot and PID namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _started(pid: int) -> int:
    """Start of a process in clock ticks since boot, to tell apart two of the same number (man proc_pid_stat)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
