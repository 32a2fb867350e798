"""Which pieces of a download are on the disk: shared by the streams, the hash workers and the journal."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ci.hub.connection import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci.hub.piece_plan import Piece


class PieceState:
    """The complete ones of `pieces`, by their numbers, and the bytes received so far. Safe for many threads."""

    def __init__(self, pieces: Sequence[Piece], complete: Iterable[int]) -> None:
        self._condition = threading.Condition()
        self._sizes = [piece.size for piece in pieces]
        self._complete = set(complete)
        self._unsynced: list[int] = []
        self._partial: dict[int, int] = {}
        self._done = sum(self._sizes[number] for number in self._complete)
        self.stopped = False

    @property
    def received(self) -> int:
        """Bytes of complete pieces and of running requests."""
        with self._condition:
            return self._done + sum(self._partial.values())

    @property
    def missing(self) -> list[int]:
        """The numbers of the pieces that are not complete."""
        return [number for number in range(len(self._sizes)) if number not in self._complete]

    def note_progress(self, request: int, size: int) -> None:
        """Note the bytes received of a running request; `request` is the number of its first piece."""
        with self._condition:
            self._partial[request] = size

    def is_complete(self, number: int) -> bool:
        """Return whether a piece is on the disk."""
        return number in self._complete

    def mark_complete(self, numbers: Sequence[int]) -> None:
        """Note that a request ended and all its bytes were written."""
        with self._condition:
            self._partial.pop(numbers[0], None)
            self._complete.update(numbers)
            self._unsynced += numbers
            self._done += sum(self._sizes[number] for number in numbers)
            self._condition.notify_all()

    def forget(self, numbers: Iterable[int]) -> None:
        """Note that pieces have wrong bytes and are to be downloaded again."""
        with self._condition:
            wrong = self._complete.intersection(numbers)
            self._complete -= wrong
            self._done -= sum(self._sizes[number] for number in wrong)

    def wait_for(self, number: int) -> None:
        """Wait until a piece is complete. Raises Interrupted once `stop` was called."""
        if number in self._complete:
            return
        with self._condition:
            self._condition.wait_for(lambda: self.stopped or number in self._complete)
            if number not in self._complete:
                raise Interrupted

    def take_unsynced(self) -> list[int]:
        """Return the complete pieces that the journal does not know yet."""
        with self._condition:
            numbers, self._unsynced = self._unsynced, []
        return numbers

    def stop(self) -> None:
        """Wake all waiting threads for good."""
        with self._condition:
            self.stopped = True
            self._condition.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait for some seconds, or until `stop` is called."""
        with self._condition:
            self._condition.wait_for(lambda: self.stopped, timeout=seconds)
