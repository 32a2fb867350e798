"""Download byte ranges straight to their places on disk, hash them, and resume after an interruption.

Streams write requests in parallel: as many as pay off, each request as long as the measured speed asks for. Hash
workers follow, one for each file that grows, reading finished bytes back from the page cache once for the file's digest
and its tensors', so memory does not depend on the model. Files that are downloaded whole are compared with the Hub's
digest. A sync thread flushes finished pieces to the disk and then records them in the journal, so the journal is right
even after a crash.
"""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ci.errors import InfrastructureError
from ci.hub.file_hashes import FileHasher, Span
from ci.hub.journal import Journal
from ci.hub.piece_plan import choose_piece_size, plan_pieces
from ci.hub.piece_state import PieceState
from ci.hub.piece_writer import PieceWriter, write_at
from ci.hub.request_queue import PARALLEL_OUTPUTS, RequestQueue
from ci.hub.stream_count import StreamCount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ci.hub.download_plan import OutputFile
    from ci.hub.remote import HubClient
    from ci.hub.repository import Repository
    from ci.hub.verification import WholeFile

HASH_WORKERS = PARALLEL_OUTPUTS
PIECE_SIZE = 4 * 1024**2
"""Bytes of the largest piece, the unit of the journal."""
LARGEST_REQUEST = 64 * 1024**2
"""Bytes of the longest request: the most that an interruption loses of each stream."""
VERIFY_TRIES = 3
"""How often a file is downloaded that does not match the Hub's digest."""
PROGRESS_INTERVAL = 0.05
SYNC_INTERVAL = 1.0


@dataclass(frozen=True)
class Digests:
    """SHA-256 of a written file and of each tensor in it, in hex."""

    file: str
    tensors: dict[str, str]


class Transfer:
    """A download of `outputs` from `repository` into `directory`. `total` counts the bytes of their tensors.

    `whole_files` are upstream files to compare with their published digests.
    """

    def __init__(
        self,
        hub: HubClient,
        repository: Repository,
        outputs: Sequence[OutputFile],
        directory: Path,
        whole_files: Sequence[WholeFile] = (),
    ) -> None:
        self._hub, self._repository, self._outputs, self._directory = hub, repository, outputs, directory
        self._whole_files = whole_files
        self.total = sum(placed.size for output in outputs for placed in output.tensors)
        self._pieces = plan_pieces(outputs, piece_size=choose_piece_size(self.total, PIECE_SIZE))
        self._journal = Journal(directory, outputs, self._pieces)
        self._state = PieceState(self._pieces, self._journal.complete_pieces)
        self._handles: dict[str, int] = {}

    @property
    def bytes_to_allocate(self) -> int:
        """Bytes of disk that `run` reserves."""
        return sum(output.size for output in self._outputs if not (self._directory / output.name).exists())

    def run(self, on_progress: Callable[[int, int], None]) -> dict[str, Digests]:
        """Download every missing piece and hash every file.

        `on_progress(done, total)`, in bytes, is called a few times a second. Raises InfrastructureError when the
        network or the disk fails, or a file never matches its digest; finished pieces stay for the next run.
        """
        try:
            self._open_outputs()
            for _ in range(VERIFY_TRIES):
                digests, wrong = self._download_and_hash(on_progress)
                if not wrong:
                    return digests
                self._forget_pieces(wrong)
        except OSError as error:
            raise _disk_error(self._directory, error) from None
        finally:
            for handle in self._handles.values():
                os.close(handle)
        raise InfrastructureError(
            f"{self._repository.label(wrong[0])}: content does not match its digest, {VERIFY_TRIES} times in a row; "
            f"run the fetch again, and check any proxy or mirror between here and {self._hub.endpoint}"
        )

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
            write_at(handle, output.header, 0)

    def _download_and_hash(self, on_progress: Callable[[int, int], None]) -> tuple[dict[str, Digests], list[str]]:
        """Return every output's digest, and the upstream files that differ from the Hub's list."""
        self._state.stopped = False
        hasher = FileHasher(self._outputs, self._pieces, self._state, self._handles)
        disk_pool = ThreadPoolExecutor(HASH_WORKERS + 1, "hub-disk")
        streams = _Streams(self._hub, self._run_stream, self._make_queue())
        try:
            syncing = disk_pool.submit(self._sync_loop)
            hashes = _Hashes(disk_pool, hasher, self._outputs, self._whole_files)
            self._wait_for_all(streams, hashes.running, syncing, on_progress)
            return hashes.read_digests(), hashes.list_wrong_files()
        finally:
            self._hub.stop.set()
            self._state.stop()
            streams.close()
            self._hub.close_watch()
            disk_pool.shutdown(cancel_futures=True)
            self._hub.stop.clear()
            self._sync_pieces(self._handles)

    def _wait_for_all(
        self,
        streams: _Streams,
        waiting: set[Future[Any]],
        syncing: Future[None],
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Wait for all hashes, keep enough streams running, and raise the first failure."""
        while waiting:
            running = streams.adjust()
            ready, _ = wait(waiting | running, timeout=PROGRESS_INTERVAL, return_when=FIRST_EXCEPTION)
            on_progress(self._state.received, self.total)
            for future in ready:
                future.result()
            waiting -= ready
            if syncing.done():
                syncing.result()

    def _make_queue(self) -> RequestQueue:
        shards = {piece.shard for piece in self._pieces}
        costly = {shard for shard in shards if self._hub.is_served_by_hub(self._repository.get_file(shard))}
        return RequestQueue(self._pieces, self._state.missing, largest=LARGEST_REQUEST, costly=costly)

    def _run_stream(self, queue: RequestQueue, wanted: Callable[[], int]) -> None:
        """Download requests until none is left, or this stream is one too many."""
        while (streams := wanted()) and (numbers := queue.take(streams)):
            started = time.monotonic()
            pieces = [self._pieces[number] for number in numbers]
            writer = PieceWriter(pieces, self._handles)

            def sink(offset: int, chunk: bytes, writer: PieceWriter = writer, first: int = numbers[0]) -> None:
                writer.write(offset, chunk)
                self._state.note_progress(first, writer.written)

            span = (pieces[0].begin, pieces[-1].end)
            self._hub.stream_range(self._repository, pieces[0].shard, span, sink)
            self._state.mark_complete(numbers)
            queue.report(span[1] - span[0], time.monotonic() - started)

    def _forget_pieces(self, files: Sequence[str]) -> None:
        """Forget the pieces of upstream files whose bytes are wrong."""
        numbers = [number for number, piece in enumerate(self._pieces) if piece.shard in files]
        for file in files:
            self._hub.forget_file_url(file)
        self._journal.forget(numbers)
        self._state.forget(numbers)

    def _sync_loop(self) -> None:
        while not self._state.stopped:
            self._sync_pieces()
            self._state.pause(SYNC_INTERVAL)

    def _sync_pieces(self, also: Iterable[str] = ()) -> None:
        """Flush finished pieces to the disk, then record them in the journal."""
        numbers = self._state.take_unsynced()
        for name in {part.output for number in numbers for part in self._pieces[number].parts} | set(also):
            _sync_data(self._handles[name])
        if numbers:
            self._journal.record(numbers)


class _Streams:
    """The running streams of one download: threads that call `run` until it returns."""

    def __init__(
        self, hub: HubClient, run: Callable[[RequestQueue, Callable[[], int]], None], queue: RequestQueue
    ) -> None:
        self._hub, self._run, self._queue = hub, run, queue
        self._pool = ThreadPoolExecutor(hub.limits.streams, "hub-stream")
        self._count = StreamCount(hub.limits.streams, time.monotonic())
        self._received = hub.received
        self._running: set[Future[None]] = set()

    def adjust(self) -> set[Future[None]]:
        """Start streams where more are wanted than run, and return those that run or failed."""
        counts = self._hub.measure()
        wanted = self._count.update(replace(counts, received=counts.received - self._received), time.monotonic())
        failed = {future for future in self._running if future.done() and future.exception()}
        self._running = {future for future in self._running if not future.done()} | failed
        while self._queue and len(self._running) < wanted:
            # A new set each time: streams read the old one meanwhile.
            self._running = self._running | {self._pool.submit(self._run, self._queue, self._choose)}
        return self._running

    def close(self) -> None:
        """Wait until every stream ended."""
        self._pool.shutdown(cancel_futures=True)

    def _choose(self) -> int:
        """Return the number of streams; 0 to the stream that asks when it is one too many."""
        wanted = self._count.count
        return wanted if sum(not future.done() for future in self._running) <= wanted else 0


class _Hashes:
    """The running hashes of one download: of each output, of its tensors, and of upstream files.

    An output that is a copy of an upstream file is hashed once for both.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, hasher: FileHasher, outputs: Sequence[OutputFile], whole: Sequence[WholeFile]
    ) -> None:
        self._outputs, self._whole_files = outputs, whole
        self._files = {output.name: pool.submit(_hash_output, hasher, output) for output in outputs}
        copies: dict[tuple[Span, ...], Future[Digests]] = {
            (Span(output.name, 0, output.size),): self._files[output.name] for output in outputs
        }
        self._checks = [copies.get(file.spans) or pool.submit(_check_file, hasher, file) for file in whole]
        self.running: set[Future[Any]] = {*self._files.values(), *self._checks}

    def read_digests(self) -> dict[str, Digests]:
        """Return the digests of every output, once nothing runs."""
        return {name: future.result() for name, future in self._files.items()}

    def list_wrong_files(self) -> list[str]:
        """List the upstream files that are not what the Hub lists, once nothing runs."""
        checked = zip(self._whole_files, self._checks, strict=True)
        return [file.path for file, future in checked if future.result().file != file.sha256]


def _hash_output(hasher: FileHasher, output: OutputFile) -> Digests:
    """Hash an output and its tensors; a file that is one tensor is hashed once."""
    spans = [Span(output.name, placed.offset, placed.offset + placed.size) for placed in output.tensors]
    names = [placed.source.tensor.name for placed in output.tensors]
    if spans == [Span(output.name, 0, output.size)]:
        whole = hasher.hash_all(spans)
        return Digests(whole, dict.fromkeys(names, whole))
    whole, tensors = hasher.hash_file(output.name, output.size, spans)
    return Digests(whole, dict(zip(names, tensors, strict=True)))


def _check_file(hasher: FileHasher, file: WholeFile) -> Digests:
    return Digests(hasher.hash_all(file.spans, file.start), {})


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


def _disk_error(directory: Path, error: OSError) -> InfrastructureError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space or choose another store with HUB_TESTS_CACHE (received data is kept for the next try)"
        return InfrastructureError(f"{directory}: the disk is full; {hint}")
    return InfrastructureError(
        f"{directory}: {error.strerror or error}; check the disk or choose another store with HUB_TESTS_CACHE"
    )
