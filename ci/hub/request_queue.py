"""The pieces that are still to be requested, given out as requests that suit the measured speed.

A few output files are downloaded at the same time, each from its beginning: the hash of a file follows its bytes in
order, so as many threads hash as files grow.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from ci.hub.piece_plan import Piece

FIRST_REQUEST = 1024**2
"""Bytes of a request before any speed is known."""
SECONDS = 1.0
"""The aimed duration of a request: long against a round trip, and all that an interruption loses of a stream."""
PARALLEL_OUTPUTS = 4
"""Output files that grow at the same time: more would have to be read back from the disk to be hashed."""
SHARES = 2
"""Of what is left, a request takes at most one of this many shares a stream, so that streams end together."""


class RequestQueue:
    """The pieces `missing` (numbers of `pieces`), of each output file in their order. Safe for many threads.

    `largest` bounds the bytes of a request. Requests for the files in `costly` always have that size: they count
    against the rate limits of the Hub.
    """

    def __init__(
        self, pieces: Sequence[Piece], missing: Iterable[int], *, largest: int, costly: Container[str] = ()
    ) -> None:
        self._pieces, self._largest, self._costly = pieces, largest, costly
        by_output: dict[str, deque[int]] = {}
        for number in missing:
            first = min(part.output for part in pieces[number].parts)
            by_output.setdefault(first, deque()).append(number)
        self._left = sum(pieces[number].size for numbers in by_output.values() for number in numbers)
        self._outputs = deque(by_output.values())
        self._growing = deque(self._outputs.popleft() for _ in range(min(PARALLEL_OUTPUTS, len(by_output))))
        self._rate = 0.0
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._growing)

    def take(self, streams: int) -> list[int]:
        """Return the numbers of the next request's pieces, for one of `streams` streams; empty when none is left."""
        with self._lock:
            if not self._growing:
                return []
            numbers = self._growing.popleft()
            taken = [numbers.popleft()]
            first = self._pieces[taken[0]]
            limit = self._choose_size(first, streams)
            while numbers and self._may_join(taken[-1], numbers[0], first.begin + limit):
                taken.append(numbers.popleft())
            if numbers:
                self._growing.append(numbers)
            elif self._outputs:
                self._growing.append(self._outputs.popleft())
            self._left -= sum(self._pieces[number].size for number in taken)
            return taken

    def report(self, size: int, seconds: float) -> None:
        """Note the speed of a finished request."""
        rate = size / max(seconds, 1e-6)
        with self._lock:
            self._rate = (self._rate + rate) / 2 if self._rate else rate

    def _choose_size(self, first: Piece, streams: int) -> int:
        if first.shard in self._costly:
            return self._largest
        wanted = self._rate * SECONDS if self._rate else FIRST_REQUEST
        return int(min(wanted, self._largest, self._left / (SHARES * streams)))

    def _may_join(self, last: int, number: int, limit: int) -> bool:
        before, piece = self._pieces[last], self._pieces[number]
        return piece.position == before.position + 1 and piece.end <= limit
