"""The heavy part of a fetch: ranges straight to their place on disk, hashed behind the writers, resumable.

Streams write pieces in parallel. Behind them, followers read in order what is complete (out of the page cache) and
hash it, one each file as a whole and one its tensors, so memory never depends on the model. A syncer puts completed
pieces on the disk and then into the journal: what an interruption leaves is true even after a crash.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ci.errors import InfrastructureError
from ci.hub.journal import Journal
from ci.hub.ranges import OutputFile, pieces
from ci.hub.remote import STREAMS, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from ci.hub.listing import Repository
    from ci.hub.remote import Hub

FOLLOWERS = 4
BLOCK = 1024**2
PIECE = 64 * 1024**2
"""Bytes of one request: what an interruption loses at most for each stream."""
TICK = 0.2
SYNC_EVERY = 1.0


@dataclass(frozen=True)
class Digests:
    """SHA-256 of a written file and of each tensor in it, in hex."""

    file: str
    tensors: dict[str, str]


class Transfer:
    """Fills `directory` with `outputs` from `repository`. `total` bytes of tensors are in them."""

    def __init__(self, hub: Hub, repository: Repository, outputs: Sequence[OutputFile], directory: Path) -> None:
        self._hub, self._repository, self._outputs, self._directory = hub, repository, outputs, directory
        self._pieces = [piece for output in outputs for piece in pieces(output, piece=PIECE)]
        self._journal = Journal(directory, outputs, self._pieces)
        self._complete = set(self._journal.done or ())
        self._unsynced: list[int] = []
        self._change = threading.Condition()
        self._moved = [piece.size if n in self._complete else 0 for n, piece in enumerate(self._pieces)]
        self._stopped = False
        self._handles: dict[str, int] = {}
        self.total = sum(piece.size for piece in self._pieces)

    @property
    def unreserved(self) -> int:
        """Bytes of disk that `run` will ask for."""
        return sum(output.size for output in self._outputs if not (self._directory / output.name).exists())

    def run(self, tick: Callable[[int, int], None]) -> dict[str, Digests]:
        """Bring every piece and hash every file; `tick(done, total)`, in bytes, is called a few times a second.

        Raises InfrastructureError when the network or the disk fails. What arrived stays for the next run.
        """
        try:
            self._open()
            return self._work(tick)
        except OSError as error:
            raise _disk_problem(self._directory, error) from None
        finally:
            for handle in self._handles.values():
                os.close(handle)

    def finish(self) -> None:
        """Remove the journal: the directory is about to become a checkpoint."""
        self._journal.end()

    def _open(self) -> None:
        """Reserve every file's place on the disk before a byte is fetched."""
        for output in self._outputs:
            path = self._directory / output.name
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._handles[output.name] = handle
            if os.fstat(handle).st_size != output.size:
                _allocate(handle, output.size)
            _write(handle, output.header, 0)

    def _work(self, tick: Callable[[int, int], None]) -> dict[str, Digests]:
        streams, helpers = ThreadPoolExecutor(STREAMS, "hub-stream"), ThreadPoolExecutor(FOLLOWERS + 1, "hub-disk")
        syncing = helpers.submit(self._sync_loop)
        try:
            todo = [number for number in range(len(self._pieces)) if number not in self._complete]
            moving = [streams.submit(self._bring, number) for number in todo]
            hashing = [self._submit(helpers, output) for output in self._outputs]
            self._watch({*moving, *(future for pair in hashing for future in pair)}, syncing, tick)
            return {
                output.name: _digests(output, whole.result(), tensors.result())
                for output, (whole, tensors) in zip(self._outputs, hashing, strict=True)
            }
        finally:
            self._stop()
            streams.shutdown(cancel_futures=True)
            helpers.shutdown(cancel_futures=True)
            self._hub.stop.clear()
            self._sync(self._handles)

    def _submit(self, helpers: ThreadPoolExecutor, output: OutputFile) -> tuple[Future[list[str]], Future[list[str]]]:
        """Hash a file as a whole, and its tensors, side by side."""
        spans = [(placed.at, placed.at + placed.size) for placed in output.tensors]
        whole = helpers.submit(self._hash, output, [(0, output.size)])
        return whole, helpers.submit(self._hash, output, spans)

    def _watch(self, waiting: set[Future[Any]], syncing: Future[None], tick: Callable[[int, int], None]) -> None:
        """Wait for all; raise the first failure at once."""
        while waiting:
            ready, waiting = wait(waiting, timeout=TICK, return_when=FIRST_EXCEPTION)
            tick(sum(self._moved), self.total)
            for future in ready:
                future.result()
            if syncing.done():
                syncing.result()

    def _bring(self, number: int) -> None:
        piece = self._pieces[number]
        handle, shift = self._handles[piece.output], piece.at - piece.begin

        def sink(offset: int, chunk: bytes) -> None:
            _write(handle, chunk, offset + shift)
            self._moved[number] = offset - piece.begin + len(chunk)

        self._hub.stream(self._repository, piece.shard, (piece.begin, piece.end), sink)
        with self._change:
            self._complete.add(number)
            self._unsynced.append(number)
            self._change.notify_all()

    def _hash(self, output: OutputFile, spans: Sequence[tuple[int, int]]) -> list[str]:
        """SHA-256 of bytes [begin, end) of a file for each span, in order, never ahead of what is complete."""
        handle, frontier, ready = self._handles[output.name], self._frontier(output), len(output.header)
        buffer = memoryview(bytearray(BLOCK))
        digests = []
        for at, end in spans:
            digest = hashlib.sha256()
            while at < end:
                while ready <= at:
                    ready = next(frontier)
                got = os.preadv(handle, [buffer[: min(BLOCK, ready - at, end - at)]], at)
                digest.update(buffer[:got])
                at += got
            digests.append(digest.hexdigest())
        return digests

    def _frontier(self, output: OutputFile) -> Iterator[int]:
        """Offsets up to which `output` is complete, growing to its end."""
        for number, piece in enumerate(self._pieces):
            if piece.output == output.name:
                self._await(number)
                yield piece.at + piece.size

    def _await(self, number: int) -> None:
        with self._change:
            self._change.wait_for(lambda: self._stopped or number in self._complete)
            if number not in self._complete:
                raise Interrupted

    def _stop(self) -> None:
        """Nobody waits any longer; streams that still run end at their next chunk."""
        self._hub.stop.set()
        with self._change:
            self._stopped = True
            self._change.notify_all()

    def _sync_loop(self) -> None:
        while not self._stopped:
            self._sync()
            with self._change:
                self._change.wait_for(lambda: self._stopped, timeout=SYNC_EVERY)

    def _sync(self, also: Iterable[str] = ()) -> None:
        """Put completed pieces on the disk, then into the journal."""
        with self._change:
            numbers, self._unsynced = self._unsynced, []
        for name in {self._pieces[number].output for number in numbers} | set(also):
            _sync_data(self._handles[name])
        if numbers:
            self._journal.add(numbers)


def _digests(output: OutputFile, whole: Sequence[str], tensors: Sequence[str]) -> Digests:
    names = [placed.source.tensor.name for placed in output.tensors]
    return Digests(whole[0], dict(zip(names, tensors, strict=True)))


def _allocate(handle: int, size: int) -> None:
    """Reserve the blocks now, so that a full disk is known before anything is fetched."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.ftruncate(handle, size)


def _sync_data(handle: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(handle)
    else:
        os.fsync(handle)


def _write(handle: int, chunk: bytes, offset: int) -> None:
    view = memoryview(chunk)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def _disk_problem(directory: Path, error: OSError) -> InfrastructureError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space or choose another store with HUB_TESTS_CACHE (what arrived is kept for the next try)"
        return InfrastructureError(f"{directory}: the disk is full; {hint}")
    return InfrastructureError(f"{directory}: {error.strerror or error}")
