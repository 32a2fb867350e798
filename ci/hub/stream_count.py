"""Choose the number of parallel streams by measurement: more while they bring more."""

from __future__ import annotations

from dataclasses import dataclass

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
LATE = 0.5
"""Share of reads that found bytes already waiting, beyond which the network waits for this process.

Where other programs load the processors, a process has little processor time and is still what limits the transfer.
"""


@dataclass(frozen=True)
class Counts:
    """What a transfer has measured since it began.

    `received` bytes, `cpu` seconds of the process, and of the `reads` that were looked at those that came `late`: their
    bytes were there already.
    """

    received: int = 0
    cpu: float = 0.0
    reads: int = 0
    late: int = 0


class StreamCount:
    """The number of streams to run now, at most `most`: `count`."""

    def __init__(self, most: int, now: float) -> None:
        self._most = most
        self.count = min(FIRST, most)
        self._start: tuple[float, Counts] | None = None
        self._settled_at, self._wait_until = now, now
        self._best: tuple[float, int] | None = None

    def update(self, counts: Counts, now: float) -> int:
        """Return the number of streams to run, given all that was measured since the start.

        Throughput is compared before and after each growth. Where it did not grow, the old number returns.
        """
        if self._start is None and counts.received and now >= self._settled_at:
            self._start = (now, counts)
        if self._start is None or now - self._start[0] < INTERVAL:
            return self.count
        seconds, before = now - self._start[0], self._start[1]
        rate = (counts.received - before.received) / seconds
        self._start = (now, counts)
        if self._best is not None and rate < GAIN * self._best[0]:
            self._change(self._best[1], None, now)
            self._wait_until = now + PAUSE
        elif now >= self._wait_until and self.count < self._most and _waits_for_network(before, counts, seconds):
            self._change(min(GROWTH * self.count, self._most), (rate, self.count), now)
        else:
            self._best = None
        return self.count

    def _change(self, count: int, best: tuple[float, int] | None, now: float) -> None:
        self.count, self._best = count, best
        self._start, self._settled_at = None, now + SETTLE


def _waits_for_network(before: Counts, now: Counts, seconds: float) -> bool:
    """Return whether the network limits a transfer, and not the processor time that this process has."""
    reads = now.reads - before.reads
    is_late = reads > 0 and now.late - before.late > LATE * reads
    return not is_late and now.cpu - before.cpu < BUSY * seconds
