"""Hash output files while they are downloaded, reading finished bytes back from the page cache."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ci.hub.download_plan import OutputFile
    from ci.hub.piece_plan import Piece
    from ci.hub.piece_state import PieceState

BLOCK_SIZE = 1024**2


@dataclass(frozen=True)
class Span:
    """Bytes [begin, end) of the file `output`."""

    output: str
    begin: int
    end: int


class FileHasher:
    """Hashes spans of `outputs`, whose open files are `handles`, as soon as the pieces in `state` are complete."""

    def __init__(
        self, outputs: Iterable[OutputFile], pieces: Sequence[Piece], state: PieceState, handles: Mapping[str, int]
    ) -> None:
        self._state, self._handles = state, handles
        parts: dict[str, list[tuple[int, int, int]]] = {output.name: [] for output in outputs}
        for number, piece in enumerate(pieces):
            for part in piece.parts:
                parts[part.output].append((part.offset, part.offset + part.end - part.begin, number))
        self._parts = {name: sorted(listed) for name, listed in parts.items()}
        self._begins = {name: [begin for begin, _, _ in listed] for name, listed in self._parts.items()}

    def hash_file(self, output: str, size: int, parts: Sequence[Span]) -> tuple[str, list[str]]:
        """Return the SHA-256 of a file and of each part of it, reading each byte once.

        `parts` are in the file's order and do not overlap.
        """
        digest, by_part = hashlib.sha256(), _PartDigests(parts)
        for at, block in self._iter_blocks(Span(output, 0, size)):
            digest.update(block)
            by_part.update(at, block)
        return str(digest.hexdigest()), by_part.finish()

    def hash_all(self, spans: Iterable[Span], start: bytes = b"") -> str:
        """Return the SHA-256 of the bytes `start` and then of spans joined together."""
        digest = hashlib.sha256(start)
        for span in spans:
            for _, block in self._iter_blocks(span):
                digest.update(block)
        return str(digest.hexdigest())

    def _iter_blocks(self, span: Span) -> Iterator[tuple[int, memoryview]]:
        """Yield offset and content of each block of a span; the next one overwrites it."""
        buffer = memoryview(bytearray(min(BLOCK_SIZE, span.end - span.begin)))
        at = span.begin
        while at < span.end:
            ready = min(self._wait_until_ready(span.output, at), span.end)
            while at < ready:
                count = os.preadv(self._handles[span.output], [buffer[: min(BLOCK_SIZE, ready - at)]], at)
                yield at, buffer[:count]
                at += count

    def _wait_until_ready(self, output: str, at: int) -> int:
        """Wait for byte `at` of a file, and return the offset up to which it is complete."""
        parts = self._parts[output]
        index = bisect_right(self._begins[output], at) - 1
        if index < 0:  # in the header, which is written first
            return parts[0][0] if parts else at + BLOCK_SIZE
        _, ready, number = parts[index]
        self._state.wait_for(number)
        while ready - at < BLOCK_SIZE and index + 1 < len(parts) and self._state.is_complete(parts[index + 1][2]):
            index += 1
            ready = parts[index][1]
        return ready


class _PartDigests:
    """The digests of parts of a file, fed with the file's blocks in order."""

    def __init__(self, parts: Sequence[Span]) -> None:
        self._parts, self._digests = parts, list[str]()
        self._digest = hashlib.sha256()

    def update(self, at: int, block: memoryview) -> None:
        """Hash the parts that lie in `block`, which begins at byte `at`."""
        end = at + len(block)
        while len(self._digests) < len(self._parts) and self._parts[len(self._digests)].begin < end:
            part = self._parts[len(self._digests)]
            self._digest.update(block[max(part.begin, at) - at : min(part.end, end) - at])
            if part.end > end:
                break
            self._close_part()

    def finish(self) -> list[str]:
        """Return all digests; what is left are empty parts at the end of the file."""
        while len(self._digests) < len(self._parts):
            self._close_part()
        return self._digests

    def _close_part(self) -> None:
        self._digests.append(str(self._digest.hexdigest()))
        self._digest = hashlib.sha256()
