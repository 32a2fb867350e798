"""Watches the disk on which results must find room while a worker that writes there lives, also between its calls.

Who filled it is measured, not guessed: the worker is ended, all that it left is removed, and the room is read again.
What it wrote into a file without a name counts too, which no walk over a directory would find.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

RESERVED_BYTES = 2**30
RESERVED_FILES = 1024
"""What stays free on the disk, bytes and names, so that results can still be written."""

INTERVAL = 0.05
"""Seconds. A disk that takes 5 GB/s loses a quarter of the reserve between two looks."""

Finding = Literal["", "subject", "machine"]


def has_room(path: Path) -> bool:
    """Return whether the disk of `path` has the reserve free. Some file systems count no names."""
    disk = os.statvfs(path)
    enough_names = disk.f_files == 0 or disk.f_favail >= RESERVED_FILES
    return disk.f_bavail * disk.f_frsize >= RESERVED_BYTES and enough_names


@dataclass
class DiskWatch:
    """Looks at the disks of `paths` until it is stopped. `reclaim` ends the worker and removes what it wrote."""

    paths: tuple[Path, ...]
    reclaim: Callable[[], None]
    _finding: Finding = field(default="", init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        """Start to watch."""
        self._thread = threading.Thread(target=self._watch, name="disk watch", daemon=True)
        self._thread.start()

    def find(self) -> Finding:
        """Look now, and return who left the disk too little room, "" where it has enough."""
        with self._lock:
            if not self._finding and not self._have_room():
                self.reclaim()
                self._finding = "subject" if self._have_room() else "machine"
            return self._finding

    def change_paths(self, paths: tuple[Path, ...]) -> None:
        """Look at other paths from now on: when this returns, nobody looks at one that was left out."""
        with self._lock:
            self.paths = paths

    def stop(self) -> None:
        """End the watch."""
        self._stopped.set()
        self._thread.join()

    def _have_room(self) -> bool:
        return all(has_room(path) for path in self.paths)

    def _watch(self) -> None:
        while not self._stopped.wait(INTERVAL) and not self.find():
            pass


@dataclass(frozen=True)
class _Watched:
    """A running worker: where it writes, and what ends it and removes what it wrote."""

    paths: tuple[Path, ...]
    reclaim: Callable[[], None]


@dataclass
class SharedWatch:
    """One watch for the workers of a subject, which write to one disk at the same time.

    It lasts from the first worker's start to the last one's end. Whoever fills the disk, all of them are ended.
    """

    _workers: dict[int, _Watched] = field(default_factory=dict, init=False)
    _watch: DiskWatch | None = field(default=None, init=False)
    _changing: threading.Lock = field(default_factory=threading.Lock, init=False)

    def join(self, worker: object, paths: tuple[Path, ...], reclaim: Callable[[], None]) -> None:
        """Watch for a worker too; `reclaim` ends it and removes what it wrote."""
        with self._changing:
            self._workers = {**self._workers, id(worker): _Watched(paths, reclaim)}
            if self._watch is None:
                self._watch = DiskWatch(paths, self._reclaim)
            else:
                self._watch.change_paths(self._list_paths())

    def leave(self, worker: object) -> None:
        """Forget a worker that has ended, and what was found once the last one has."""
        with self._changing:
            self._workers = {key: other for key, other in self._workers.items() if key != id(worker)}
            if self._watch is None:
                return
            if self._workers:
                self._watch.change_paths(self._list_paths())
                return
            self._watch.stop()
            self._watch = None

    def find(self, worker: object) -> Finding:
        """Return who left the disk too little room, "" where there is enough or no watch."""
        watch = self._watch if id(worker) in self._workers else None
        return watch.find() if watch is not None else ""

    def _list_paths(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(path for worker in self._workers.values() for path in worker.paths))

    def _reclaim(self) -> None:
        """End all workers. Called while the watch looks, so it waits for no one who changes them."""
        for worker in self._workers.values():
            worker.reclaim()
