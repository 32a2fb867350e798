"""Choose the number of parallel streams by measurement: more while they bring more."""

from __future__ import annotations

FIRST = 8
GROWTH = 4
"""The number of streams is multiplied by this: 8, 32, 64 (the default limit)."""
INTERVAL = 0.2
"""Seconds of one measurement, at least."""
SETTLE = 0.1
"""Seconds after a change that are not measured: new connections are being opened."""
GAIN = 1.2
"""More streams stay when the throughput grew by this factor."""
PAUSE = 5.0
"""Seconds until more streams are tried again."""
BUSY = 0.8
"""Processor seconds of this process a second, beyond which more streams only cost."""


class StreamCount:
    """The number of streams to run now, at most `most`: `count`."""

    def __init__(self, most: int, now: float) -> None:
        self._most = most
        self.count = min(FIRST, most)
        self._start: tuple[float, int, float] | None = None
        self._settled_at, self._wait_until = now, now
        self._best: tuple[float, int] | None = None

    def update(self, received: int, cpu: float, now: float) -> int:
        """Return the number of streams to run, given all bytes and processor seconds since the start.

        Throughput is compared before and after each growth. Where it did not grow, the old number returns.
        """
        if self._start is None and received and now >= self._settled_at:
            self._start = (now, received, cpu)
        if self._start is None or now - self._start[0] < INTERVAL:
            return self.count
        seconds = now - self._start[0]
        rate, busy = (received - self._start[1]) / seconds, (cpu - self._start[2]) / seconds
        self._start = (now, received, cpu)
        if self._best is not None and rate < GAIN * self._best[0]:
            self._change(self._best[1], None, now)
            self._wait_until = now + PAUSE
        elif now >= self._wait_until and busy < BUSY and self.count < self._most:
            self._change(min(GROWTH * self.count, self._most), (rate, self.count), now)
        else:
            self._best = None
        return self.count

    def _change(self, count: int, best: tuple[float, int] | None, now: float) -> None:
        self.count, self._best = count, best
        self._start, self._settled_at = None, now + SETTLE
