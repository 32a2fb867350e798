"""One loaded model at a time on a GPU, and what each side costs: seconds, and the peak of device memory."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from ci.phases import TRACE_FILES, PhaseClock, bound_seconds, claim_forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.subjects.base import TraceResult


class ModelHolder(Protocol):
    """A side that may keep a model loaded: Hugging Face, a subject, the cross-check."""

    def release(self) -> None:
        """Unload the model."""
        ...


@dataclass
class DeviceLease:
    """Gives the device to one holder at a time, so that each model may fill it; on the CPU all keep their models."""

    device: str
    _holder: ModelHolder | None = None

    def acquire(self, holder: ModelHolder) -> None:
        """Unload the model of the last holder, unless `holder` is the same, before `holder` loads one."""
        if self.device == "cpu" or self._holder is holder:
            return
        if self._holder is not None:
            self._holder.release()
        self._holder = holder


@dataclass
class CostMeter:
    """Sums of one side's costs over its traces: seconds, and the peak of device memory in bytes.

    `clock` gets the same seconds by phase.
    """

    loading: float = 0.0
    forward: float = 0.0
    compare: float = 0.0
    peak_device_bytes: int = 0
    clock: PhaseClock = field(default_factory=PhaseClock)

    def start_interval(self) -> CostMeter:
        """Return the sums until now, for `costs_since`, and reset the peak."""
        self.peak_device_bytes = 0
        return replace(self)

    def run_trace(self, who: str, trace: Callable[[], TraceResult]) -> TraceResult:
        """Call `trace` and add its costs; `who` names side, dtype and variant in the times by phase."""
        started = time.perf_counter()
        with self.clock.measure("forward", who) as measured:
            result = trace()
            load, forward = result.load_seconds, result.seconds
            claims = claim_forward(who, load=load, forward=forward, compiling=result.compile_seconds)
            measured.split(claims, rest=("other", TRACE_FILES))
        self.add_trace(result, time.perf_counter() - started)
        return result

    def add_trace(self, result: TraceResult, wall: float) -> None:
        """Add the costs of one trace. What it reports may be any number: none counts more than the `wall` seconds."""
        self.loading += bound_seconds(result.load_seconds, wall)
        self.forward += bound_seconds(result.seconds, wall)
        self.peak_device_bytes = max(self.peak_device_bytes, result.peak_device_bytes)

    @contextmanager
    def time_comparison(self) -> Iterator[None]:
        """Count the time of the block as comparison."""
        started = time.perf_counter()
        try:
            with self.clock.measure("compare"):
                yield
        finally:
            self.compare += time.perf_counter() - started

    def costs_since(self, start: CostMeter, side: str) -> dict[str, float]:
        """Return the seconds added since `start`, by the name of the figure."""
        return {
            f"{side}.load_seconds": self.loading - start.loading,
            f"{side}.forward_seconds": self.forward - start.forward,
            f"{side}.compare_seconds": self.compare - start.compare,
        }
