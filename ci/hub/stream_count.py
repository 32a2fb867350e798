"""Choose the number of parallel streams by measurement: more while they bring more."""

from __future__ import annotations

FIRST = 8
INTERVAL = 0.25
"""Seconds between two decisions, at least."""
GAIN = 1.2
"""Twice as many streams stay when the throughput grew by this factor."""
PAUSE = 5.0
"""Seconds until more streams are tried again."""
BUSY = 0.8
"""Processor seconds of this process a second, beyond which more streams only cost."""


class StreamCount:
    """The number of streams to run now, at most `most`: `count`."""

    def __init__(self, most: int, now: float) -> None:
        self._most = most
        self.count = min(FIRST, most)
        self._since, self._received, self._cpu = now, 0, 0.0
        self._best: tuple[float, int] | None = None
        self._wait_until = 0.0

    def update(self, received: int, cpu: float, now: float) -> int:
        """Return the number of streams to run, given all bytes and processor seconds since the start.

        Throughput is compared before and after each doubling. Where it did not grow, the old number returns.
        """
        seconds = now - self._since
        if seconds < INTERVAL or received == self._received:
            return self.count
        rate, busy = (received - self._received) / seconds, (cpu - self._cpu) / seconds
        self._since, self._received, self._cpu = now, received, cpu
        if self._best is not None and self.count > self._best[1] and rate < GAIN * self._best[0]:
            self.count, self._best, self._wait_until = self._best[1], None, now + PAUSE
        elif now >= self._wait_until and busy < BUSY and self.count < self._most:
            self._best = (rate, self.count)
            self.count = min(2 * self.count, self._most)
        else:
            self._best = None
        return self.count
