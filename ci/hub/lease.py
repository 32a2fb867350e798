"""Leases: which process uses a directory of a store that several machines may share.

A lease is a small file that names its process. It ends with that process, or, when the process cannot be looked up
from here (another machine, another container), some time after its last renewal. File locks (flock) would not do:
Lustre, GPFS and some NFS ignore them.
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
class LeaseOwner:
    """A process: its host and PID namespace, its number there, and its start (clock ticks, 0 if unknown)."""

    place: str
    pid: int
    started: int


@dataclass(frozen=True)
class Lease:
    """The lease file at `path`, held by this process."""

    path: Path

    def renew(self) -> None:
        """Set the file's time to now: the process is alive."""
        with suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self.path.unlink()


def acquire(directory: Path, name: str) -> Lease:
    """Create a lease of this process at `directory/name.<unique>.lease`."""
    path = directory / f"{name}.{uuid.uuid4().hex[:8]}.lease"
    path.write_text(to_json(_describe_this_process()), encoding="utf-8")
    return Lease(path)


def is_active(path: Path, *, timeout: float) -> bool:
    """Return whether the lease at `path` still holds; it ends `timeout` seconds after its last renewal."""
    try:
        age = time.time() - path.stat().st_mtime
        owner = read_json(LeaseOwner, path.read_bytes(), what=str(path), error=InfrastructureError)
    except (OSError, HubTestsError):
        return False
    return age <= timeout and _may_be_alive(owner)


def remove_expired(directory: Path, pattern: str, *, timeout: float) -> None:
    """Remove the leases of `pattern` that have ended."""
    for path in directory.glob(f"{pattern}.lease"):
        if not is_active(path, timeout=timeout):
            Lease(path).release()


def _may_be_alive(owner: LeaseOwner) -> bool:
    """Return False only for a process that can be looked up from here and is gone."""
    if owner.place != _describe_namespace():
        return True
    return _process_exists(owner.pid) and _read_start_time(owner.pid) == owner.started


def _describe_this_process() -> LeaseOwner:
    return LeaseOwner(_describe_namespace(), os.getpid(), _read_start_time(os.getpid()))


@cache
def _describe_namespace() -> str:
    """Return a name for the processes visible from here: host, boot and PID namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _read_start_time(pid: int) -> int:
    """Return a process's start in clock ticks since boot (man proc_pid_stat); 0 if unknown.

    It tells apart two processes with the same number.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
