"""Hash output files while they are downloaded, reading finished bytes back from the page cache."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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

    def hash_each(self, spans: Iterable[Span]) -> list[str]:
        """Return the SHA-256 of each span."""
        return [self.hash_all([span]) for span in spans]

    def hash_all(self, spans: Iterable[Span], start: bytes = b"") -> str:
        """Return the SHA-256 of the bytes `start` and then of spans joined together."""
        digest = hashlib.sha256(start)
        buffer = memoryview(bytearray(BLOCK_SIZE))
        for span in spans:
            at = span.begin
            while at < span.end:
                ready = min(self._wait_until_ready(span.output, at), span.end)
                while at < ready:
                    count = os.preadv(self._handles[span.output], [buffer[: min(BLOCK_SIZE, ready - at)]], at)
                    digest.update(buffer[:count])
                    at += count
        return str(digest.hexdigest())

    def _wait_until_ready(self, output: str, at: int) -> int:
        """Wait for byte `at` of a file, and return the offset up to which (or further) it is complete from there."""
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
