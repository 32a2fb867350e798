"""On a GPU one side unloads before the other loads; costs are those of an interval."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ci.equivalence.device_usage import CostMeter, DeviceLease
from ci.subjects.base import TraceResult

TRACE = TraceResult((), {}, {}, "float32", "cpu", seconds=2.0, load_seconds=3.0, peak_device_bytes=7)


class Holder:
    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


def test_on_a_gpu_the_last_holder_unloads() -> None:
    lease, one, other = DeviceLease("cuda"), Holder(), Holder()
    for holder in (one, one, other, one):
        lease.acquire(holder)
    assert (one.released, other.released) == (1, 1)


def test_on_the_cpu_nobody_unloads() -> None:
    lease, one, other = DeviceLease("cpu"), Holder(), Holder()
    lease.acquire(one)
    lease.acquire(other)
    assert one.released == 0


def test_costs_are_those_since_the_interval_began() -> None:
    meter = CostMeter()
    meter.add_trace(TRACE)
    start = meter.start_interval()
    assert meter.peak_device_bytes == 0
    meter.add_trace(replace(TRACE, seconds=0.5, load_seconds=0.0, peak_device_bytes=5))
    with meter.time_comparison():
        pass
    costs = meter.costs_since(start, "subject")
    assert costs["subject.forward_seconds"] == pytest.approx(0.5)
    assert costs["subject.load_seconds"] == 0.0
    assert costs["subject.compare_seconds"] > 0.0
    assert meter.peak_device_bytes == 5
