"""What one side of a verdict cost: seconds by what they went into, and the peak of the device's memory."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.subjects.base import TraceResult


@dataclass
class Spent:
    """Sums over the traces of one side; seconds, bytes."""

    loading: float = 0.0
    forward: float = 0.0
    compare: float = 0.0
    peak_device_bytes: int = 0

    def mark(self) -> Spent:
        """What was spent until now, for `figures` to start from; the peak starts anew."""
        self.peak_device_bytes = 0
        return replace(self)

    def ran(self, result: TraceResult) -> None:
        """One trace more."""
        self.loading += result.load_seconds
        self.forward += result.seconds
        self.peak_device_bytes = max(self.peak_device_bytes, result.peak_device_bytes)

    @contextmanager
    def comparing(self) -> Iterator[None]:
        """The block's time is spent on comparing."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.compare += time.perf_counter() - started

    def figures(self, side: str, before: Spent) -> dict[str, float]:
        """What was added since `before`, by name; the peak is what it is."""
        return {
            f"{side}.load_seconds": self.loading - before.loading,
            f"{side}.forward_seconds": self.forward - before.forward,
            f"{side}.compare_seconds": self.compare - before.compare,
        }
