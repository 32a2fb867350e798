"""Write the bytes of one request to their places in the output files."""

from __future__ import annotations

import os
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.hub.piece_plan import Piece


class PieceWriter:
    """Writes the bytes of neighboring pieces into open files, `handles` by name; the bytes of gaps are dropped.

    `written` counts the kept bytes up to the last one written.
    """

    def __init__(self, pieces: Sequence[Piece], handles: Mapping[str, int]) -> None:
        self._parts = [part for piece in pieces for part in piece.parts]
        self._ends = [part.end for part in self._parts]
        self._handles = handles
        self._kept_before = [0]
        for part in self._parts:
            self._kept_before.append(self._kept_before[-1] + part.end - part.begin)
        self.written = 0

    def write(self, at: int, chunk: bytes) -> None:
        """Write `chunk`, which begins at byte `at` of the upstream file."""
        view, end = memoryview(chunk), at + len(chunk)
        index = bisect_right(self._ends, at)
        while index < len(self._parts) and self._parts[index].begin < end:
            part = self._parts[index]
            first, last = max(part.begin, at), min(part.end, end)
            write_at(self._handles[part.output], view[first - at : last - at], part.offset + first - part.begin)
            self.written = self._kept_before[index] + last - part.begin
            index += 1


def write_at(handle: int, content: bytes | memoryview, offset: int) -> None:
    """Write all of `content` to byte `offset` of an open file."""
    view = memoryview(content)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
