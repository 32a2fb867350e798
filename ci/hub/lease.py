"""Leases: which process, or which workflow run, uses a directory of a store that several machines may share.

A lease is a small file that names its holder. It ends when the holder removes it, when the holder's process is gone, or
when nobody has renewed it for a while:

- On the holder's own machine its lock (flock) tells at once: the kernel drops the lock with the process.
- From another machine the lock tells nothing, because Lustre, GPFS and some NFS ignore it. There the holder's heartbeat
  counts: a thread sets the file's time every few seconds.
- A workflow run holds by time alone, since its jobs run on machines that may not be able to write here.

All times are those that the file server gives to files, compared with the time that it gives to a new one: the clocks
of the machines, and what the server's own clock shows, do not matter.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ci.errors import HubTestsError, InfrastructureError
from ci.hub.process_identity import describe_namespace, process_exists, read_boot_id, read_start_time
from ci.records import read_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

HEARTBEAT = 5.0
"""Seconds between two renewals of the leases that this process holds."""
RUN_TIMEOUT = 24 * 3600.0
"""Seconds for which a workflow run holds: GitHub ends a job that no machine took for so long."""
MAX_LEASE = 64 * 1024
"""Bytes that are read of a lease file."""
Lock = Literal["held", "free", "unknown"]
DRAFT_TIMEOUT = 3600.0
"""Seconds after which a file that a killed process left beside the leases is removed."""


@dataclass(frozen=True)
class LeaseOwner:
    """A process: its host and PID namespace, its number there, and its start (clock ticks, 0 if unknown).

    `kernel` is the boot of its machine, `locked` whether it holds the file's lock, `beats` whether it renews the lease.
    Versions before these keys have none of them. `run` is the workflow run that holds instead of a process.
    """

    place: str
    pid: int
    started: int
    kernel: str = ""
    locked: bool = False
    beats: bool = False
    run: str = ""

    @property
    def name(self) -> str:
        """The holder, for people."""
        return f"run {self.run}" if self.run else f"process {self.pid} on {self.place.partition(' ')[0]}"


@dataclass(frozen=True)
class Lease:
    """The lease file at `path`, held by this process or by a run."""

    path: Path

    def renew(self) -> None:
        """Set the file's time to the server's now: the holder is alive."""
        with suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Remove the file, and drop its lock."""
        with suppress(OSError):
            self.path.unlink()
        _held.drop(self.path)


def acquire(directory: Path, name: str) -> Lease:
    """Create a lease of this process at `directory/name.<unique>.lease`, and renew it until it is released."""
    path = directory / f"{name}.{uuid.uuid4().hex[:8]}.lease"
    draft = directory / f".{uuid.uuid4().hex}.draft"
    handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(handle, to_json(_describe_this_process(locked=_lock_file(draft, handle))).encode())
        draft.rename(path)
    except OSError:
        os.close(handle)
        raise
    _held.add(path, handle)
    return Lease(path)


def hold(directory: Path, name: str) -> Lease:
    """Return this process's lease of `name`, and create one unless there is one."""
    for path in _held.paths():
        if path.parent == directory and path.name.startswith(f"{name}.") and path.exists():
            lease = Lease(path)
            lease.renew()
            return lease
    return acquire(directory, name)


def hold_for_run(directory: Path, name: str, run: str) -> Lease:
    """Create or renew the lease of a workflow run, which outlives this process."""
    path = directory / f"{name}.run-{run}.lease"
    draft = directory / f".{uuid.uuid4().hex}.draft"
    draft.write_text(to_json(LeaseOwner("a workflow run", 0, 0, run=run)), encoding="utf-8")
    draft.replace(path)
    return Lease(path)


def release_all() -> None:
    """Release every lease of this process."""
    for path in _held.paths():
        Lease(path).release()


def find_holder(path: Path, *, timeout: float, silence: float | None = None, now: float | None = None) -> str | None:
    """Return who holds the lease at `path`, None when it has ended.

    It ends `timeout` seconds after its last renewal; if a process on another machine holds it, after `silence` seconds
    (default: `timeout`). `now` is the time of `read_clock`.
    """
    try:
        with _open_lease(path) as handle:
            modified = os.fstat(handle).st_mtime
            owner = read_json(LeaseOwner, os.read(handle, MAX_LEASE), what=str(path), error=InfrastructureError)
            lock = _read_lock(owner, handle)
    except (OSError, HubTestsError):
        return None
    age = abs((read_clock(path.parent) if now is None else now) - modified)  # a future time was set by a wrong clock
    limit = _choose_limit(owner, lock, timeout, timeout if silence is None else silence)
    return owner.name if age <= limit and _may_be_alive(owner) else None


def is_active(path: Path, *, timeout: float, silence: float | None = None, now: float | None = None) -> bool:
    """Return whether the lease at `path` still holds, by the rules of `find_holder`."""
    return find_holder(path, timeout=timeout, silence=silence, now=now) is not None


def remove_expired(directory: Path, pattern: str, *, timeout: float, silence: float | None = None) -> None:
    """Remove the leases of `pattern` that have ended, and what killed processes left beside them."""
    now = read_clock(directory)
    for path in directory.glob(f"{pattern}.lease"):
        if not is_active(path, timeout=timeout, silence=silence, now=now):
            Lease(path).release()
    for path in (*directory.glob(".*.draft"), *directory.glob(".*.clock")):
        with suppress(OSError):
            if abs(now - path.stat().st_mtime) > DRAFT_TIMEOUT:
                path.unlink()


def read_clock(directory: Path) -> float:
    """Return the file server's time, which it gives to a new file, in seconds since 1970.

    Where no file can be made it is the time of the newest file there: the server's clock shows that or more.
    """
    probe = directory / f".{uuid.uuid4().hex}.clock"
    try:
        handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return _read_newest_time(directory)
    try:
        os.utime(handle)
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        with suppress(OSError):
            probe.unlink()


class _HeldLeases:
    """The leases of this process: their open, locked files, and the thread that renews them."""

    def __init__(self) -> None:
        self._handles: dict[Path, int] = {}
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = 0

    def add(self, path: Path, handle: int) -> None:
        with self._guard:
            if self._pid != os.getpid():  # a forked child renews and releases nothing of its parent's
                self._handles, self._thread, self._pid = {}, None, os.getpid()
            self._handles[path] = handle
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="store-leases", daemon=True)
                self._thread.start()

    def drop(self, path: Path) -> None:
        with self._guard:
            handle = self._handles.pop(path, None)
            if handle is not None:
                os.close(handle)

    def paths(self) -> tuple[Path, ...]:
        with self._guard:
            return tuple(self._handles) if self._pid == os.getpid() else ()

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT)
            for path in self.paths():
                with suppress(OSError):
                    os.utime(path)


_held = _HeldLeases()
atexit.register(release_all)


@contextmanager
def _open_lease(path: Path) -> Iterator[int]:
    """Open a lease file; opening asks an NFS server for its present time and content."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _try_lock(handle: int, kind: int) -> bool:
    """Return whether the lock could be had; False also where the file system has no locks."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock_file(path: Path, handle: int) -> bool:
    """Lock an open file, and return whether another opener sees the lock.

    Some file systems only say yes.
    """
    if not _try_lock(handle, fcntl.LOCK_EX):
        return False
    with _open_lease(path) as other:
        return not _try_lock(other, fcntl.LOCK_SH)


def _read_lock(owner: LeaseOwner, handle: int) -> Lock:
    """Return whether a process on this machine holds the lock of a lease."""
    if not owner.locked or owner.kernel != read_boot_id():
        return "unknown"
    return "free" if _try_lock(handle, fcntl.LOCK_SH) else "held"


def _choose_limit(owner: LeaseOwner, lock: Lock, timeout: float, silence: float) -> float:
    """Return how many seconds after its last renewal a lease ends; negative: ended."""
    elsewhere = owner.place != describe_namespace()
    if owner.run:
        return RUN_TIMEOUT
    if lock == "free":
        return 3 * HEARTBEAT if elsewhere else -1.0  # a virtual machine may be a copy of this one, with the same boot
    return silence if lock == "unknown" and owner.beats and elsewhere else timeout


def _read_newest_time(directory: Path) -> float:
    newest = 0.0
    for path in directory.glob("*"):
        with suppress(OSError):
            newest = max(newest, path.stat().st_mtime)
    return newest


def _may_be_alive(owner: LeaseOwner) -> bool:
    """Return False only for a process that can be looked up from here and is gone."""
    if owner.place != describe_namespace():
        return True
    return process_exists(owner.pid) and read_start_time(owner.pid) == owner.started


def _describe_this_process(*, locked: bool) -> LeaseOwner:
    pid = os.getpid()
    return LeaseOwner(describe_namespace(), pid, read_start_time(pid), read_boot_id(), locked, beats=True)
