"""The progress of a fetch as data. A fetch prints nothing: its caller draws."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = 5.0
"""Seconds over which the rate is measured."""


@dataclass(frozen=True)
class Progress:
    """One moment of a fetch: bytes done and in all, recent bytes a second, seconds left (None: unknown yet).

    `phase` is "resolve", "wait" (another process fetches the same), "headers", "tensors", "writing" (of tensors from
    `.bin` files), "files" or "done". A total of 0 is not known yet.
    """

    model_id: str
    phase: str
    done: int
    total: int
    rate: float = 0.0
    eta: float | None = None


class ProgressMeter:
    """Turns counts of bytes into `Progress` for a callback."""

    def __init__(
        self, model_id: str, callback: Callable[[Progress], None] | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._model_id, self._callback, self._clock = model_id, callback, clock
        self._samples: deque[tuple[float, int]] = deque()
        self._phase = ""

    def report(self, phase: str, done: int = 0, total: int = 0) -> None:
        """Call back with the current phase, counts, rate and time left."""
        if self._callback is None:
            return
        if phase != self._phase:
            self._phase = phase
            self._samples.clear()
        rate = self._measure_rate(done)
        eta = (total - done) / rate if rate > 0 and total else None
        self._callback(Progress(self._model_id, phase, done, total, rate, eta))

    def _measure_rate(self, done: int) -> float:
        now = self._clock()
        self._samples.append((now, done))
        while now - self._samples[0][0] > WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        return max(done - before, 0) / (now - then) if now > then else 0.0
