"""Download byte ranges straight to their places on disk, hash them, and resume after an interruption.

Streams write pieces in parallel. Hash workers follow in order, reading finished bytes back from the page cache: one
hashes each file as a whole and one its tensors, so memory does not depend on the model. A sync thread flushes finished
pieces to the disk and then records them in the journal, so the journal is right even after a crash.
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
from ci.hub.download_plan import OutputFile, plan_pieces
from ci.hub.journal import Journal
from ci.hub.remote import STREAMS, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from ci.hub.remote import HubClient
    from ci.hub.repository import Repository

HASH_WORKERS = 4
BLOCK_SIZE = 1024**2
PIECE_SIZE = 64 * 1024**2
"""Bytes of one request: the most that an interruption loses for each stream."""
PROGRESS_INTERVAL = 0.2
SYNC_INTERVAL = 1.0


@dataclass(frozen=True)
class Digests:
    """SHA-256 of a written file and of each tensor in it, in hex."""

    file: str
    tensors: dict[str, str]


class Transfer:
    """A download of `outputs` from `repository` into `directory`. `total` counts the bytes of their tensors."""

    def __init__(self, hub: HubClient, repository: Repository, outputs: Sequence[OutputFile], directory: Path) -> None:
        self._hub, self._repository, self._outputs, self._directory = hub, repository, outputs, directory
        self._pieces = [piece for output in outputs for piece in plan_pieces(output, piece_size=PIECE_SIZE)]
        self._journal = Journal(directory, outputs, self._pieces)
        self._complete = set(self._journal.complete_pieces)
        self._unsynced: list[int] = []
        self._condition = threading.Condition()
        self._received = [piece.size if n in self._complete else 0 for n, piece in enumerate(self._pieces)]
        self._stopped = False
        self._handles: dict[str, int] = {}
        self.total = sum(piece.size for piece in self._pieces)

    @property
    def bytes_to_allocate(self) -> int:
        """Bytes of disk that `run` reserves."""
        return sum(output.size for output in self._outputs if not (self._directory / output.name).exists())

    def run(self, on_progress: Callable[[int, int], None]) -> dict[str, Digests]:
        """Download every missing piece and hash every file.

        `on_progress(done, total)`, in bytes, is called a few times a second. Raises InfrastructureError when the
        network or the disk fails; finished pieces stay for the next run.
        """
        try:
            self._open_outputs()
            return self._download_and_hash(on_progress)
        except OSError as error:
            raise _disk_error(self._directory, error) from None
        finally:
            for handle in self._handles.values():
                os.close(handle)

    def remove_journal(self) -> None:
        """Remove the journal, because the directory becomes a checkpoint."""
        self._journal.remove()

    def _open_outputs(self) -> None:
        """Open every file and reserve its disk space, before any download."""
        for output in self._outputs:
            path = self._directory / output.name
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._handles[output.name] = handle
            if os.fstat(handle).st_size != output.size:
                _allocate(handle, output.size)
            _write_at(handle, output.header, 0)

    def _download_and_hash(self, on_progress: Callable[[int, int], None]) -> dict[str, Digests]:
        stream_pool = ThreadPoolExecutor(STREAMS, "hub-stream")
        disk_pool = ThreadPoolExecutor(HASH_WORKERS + 1, "hub-disk")
        syncing = disk_pool.submit(self._sync_loop)
        try:
            missing = [number for number in range(len(self._pieces)) if number not in self._complete]
            downloads = [stream_pool.submit(self._download_piece, number) for number in missing]
            hashes = [self._submit_hashing(disk_pool, output) for output in self._outputs]
            self._wait_for_all({*downloads, *(future for pair in hashes for future in pair)}, syncing, on_progress)
            return {
                output.name: _make_digests(output, whole.result(), tensors.result())
                for output, (whole, tensors) in zip(self._outputs, hashes, strict=True)
            }
        finally:
            self._stop_workers()
            stream_pool.shutdown(cancel_futures=True)
            disk_pool.shutdown(cancel_futures=True)
            self._hub.stop.clear()
            self._sync_pieces(self._handles)

    def _submit_hashing(
        self, disk_pool: ThreadPoolExecutor, output: OutputFile
    ) -> tuple[Future[list[str]], Future[list[str]]]:
        """Start hashing a file as a whole and, beside it, its tensors."""
        spans = [(placed.offset, placed.offset + placed.size) for placed in output.tensors]
        whole = disk_pool.submit(self._hash_spans, output, [(0, output.size)])
        return whole, disk_pool.submit(self._hash_spans, output, spans)

    def _wait_for_all(
        self, waiting: set[Future[Any]], syncing: Future[None], on_progress: Callable[[int, int], None]
    ) -> None:
        """Wait for all futures and raise the first failure at once."""
        while waiting:
            ready, waiting = wait(waiting, timeout=PROGRESS_INTERVAL, return_when=FIRST_EXCEPTION)
            on_progress(sum(self._received), self.total)
            for future in ready:
                future.result()
            if syncing.done():
                syncing.result()

    def _download_piece(self, number: int) -> None:
        piece = self._pieces[number]
        handle, shift = self._handles[piece.output], piece.offset - piece.begin

        def sink(offset: int, chunk: bytes) -> None:
            _write_at(handle, chunk, offset + shift)
            self._received[number] = offset - piece.begin + len(chunk)

        self._hub.stream_range(self._repository, piece.shard, (piece.begin, piece.end), sink)
        with self._condition:
            self._complete.add(number)
            self._unsynced.append(number)
            self._condition.notify_all()

    def _hash_spans(self, output: OutputFile, spans: Sequence[tuple[int, int]]) -> list[str]:
        """Return the SHA-256 of each span [begin, end) in order, once its bytes are downloaded."""
        handle = self._handles[output.name]
        complete_offsets = self._iter_complete_offsets(output)
        ready = len(output.header)  # bytes from the file's start that are on disk
        buffer = memoryview(bytearray(BLOCK_SIZE))
        digests = []
        for at, end in spans:
            digest = hashlib.sha256()
            while at < end:
                while ready <= at:
                    ready = next(complete_offsets)
                count = os.preadv(handle, [buffer[: min(BLOCK_SIZE, ready - at, end - at)]], at)
                digest.update(buffer[:count])
                at += count
            digests.append(digest.hexdigest())
        return digests

    def _iter_complete_offsets(self, output: OutputFile) -> Iterator[int]:
        """Yield the offsets up to which `output` is complete, as it grows."""
        for number, piece in enumerate(self._pieces):
            if piece.output == output.name:
                self._wait_for_piece(number)
                yield piece.offset + piece.size

    def _wait_for_piece(self, number: int) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._stopped or number in self._complete)
            if number not in self._complete:
                raise Interrupted

    def _stop_workers(self) -> None:
        """Stop hash workers at once and streams at their next chunk."""
        self._hub.stop.set()
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def _sync_loop(self) -> None:
        while not self._stopped:
            self._sync_pieces()
            with self._condition:
                self._condition.wait_for(lambda: self._stopped, timeout=SYNC_INTERVAL)

    def _sync_pieces(self, also: Iterable[str] = ()) -> None:
        """Flush finished pieces to the disk, then record them in the journal."""
        with self._condition:
            numbers, self._unsynced = self._unsynced, []
        for name in {self._pieces[number].output for number in numbers} | set(also):
            _sync_data(self._handles[name])
        if numbers:
            self._journal.record(numbers)


def _make_digests(output: OutputFile, whole: Sequence[str], tensors: Sequence[str]) -> Digests:
    names = [placed.source.tensor.name for placed in output.tensors]
    return Digests(whole[0], dict(zip(names, tensors, strict=True)))


def _allocate(handle: int, size: int) -> None:
    """Reserve disk blocks, so that a full disk is noticed before the download."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.ftruncate(handle, size)


def _sync_data(handle: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(handle)
    else:
        os.fsync(handle)


def _write_at(handle: int, chunk: bytes, offset: int) -> None:
    view = memoryview(chunk)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def _disk_error(directory: Path, error: OSError) -> InfrastructureError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space or choose another store with HUB_TESTS_CACHE (received data is kept for the next try)"
        return InfrastructureError(f"{directory}: the disk is full; {hint}")
    return InfrastructureError(
        f"{directory}: {error.strerror or error}; check the disk or choose another store with HUB_TESTS_CACHE"
    )
