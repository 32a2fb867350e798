"""On a GPU one side unloads before the other loads; costs are those of an interval."""

from __future__ import annotations

import math
import time
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
    meter.add_trace(TRACE, wall=5.0)
    start = meter.start_interval()
    assert meter.peak_device_bytes == 0
    meter.add_trace(replace(TRACE, seconds=0.5, load_seconds=0.0, peak_device_bytes=5), wall=1.0)
    with meter.time_comparison():
        pass
    costs = meter.costs_since(start, "subject")
    assert costs["subject.forward_seconds"] == pytest.approx(0.5)
    assert costs["subject.load_seconds"] == 0.0
    assert costs["subject.compare_seconds"] > 0.0
    assert meter.peak_device_bytes == 5


def test_a_trace_counts_for_its_phases() -> None:
    meter = CostMeter()

    def trace() -> TraceResult:
        time.sleep(0.05)
        return replace(TRACE, seconds=0.03, load_seconds=0.01, compile_seconds=0.02)

    meter.run_trace("subject float32", trace)
    times = {(one.phase, one.detail): one.seconds for one in meter.clock.take()}
    assert times["load", "subject float32"] == pytest.approx(0.01)
    assert times["compile", "subject float32"] == pytest.approx(0.02)
    assert times["forward", "subject float32"] == pytest.approx(0.01)
    assert times["other", "trace files"] > 0


@pytest.mark.parametrize("lie", [math.nan, math.inf, -1.0, 1e9], ids=str)
def test_no_trace_counts_more_than_it_took(lie: float) -> None:
    meter = CostMeter()
    result = replace(TRACE, seconds=lie, load_seconds=lie, compile_seconds=lie)
    started = time.perf_counter()
    meter.run_trace("subject float32", lambda: result)
    wall = time.perf_counter() - started
    assert 0 <= meter.loading <= wall
    assert 0 <= meter.forward <= wall
    times = meter.clock.take()
    assert all(0 <= one.seconds <= wall for one in times)
    assert 0 < sum(one.seconds for one in times) <= wall
