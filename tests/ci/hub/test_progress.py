"""Rate and time left, from counts and a clock."""

from __future__ import annotations

from ci.hub.progress import Progress, ProgressMeter


def test_rate_and_time_left() -> None:
    told: list[Progress] = []
    times = iter([0.0, 1.0, 2.0, 10.0, 10.5])
    meter = ProgressMeter("o/m", told.append, lambda: next(times))
    for done in (0, 100, 300, 300, 400):
        meter.report("tensors", done, 1000)
    assert [moment.rate for moment in told] == [0.0, 100.0, 150.0, 0.0, 200.0]
    assert [moment.eta for moment in told] == [None, 9.0, 700 / 150, None, 3.0]
    assert told[0] == Progress("o/m", "tensors", 0, 1000)


def test_nobody_watching_costs_nothing() -> None:
    ProgressMeter("o/m", None, lambda: 1 // 0).report("tensors", 1, 2)


def test_what_is_taken_back_is_no_negative_rate() -> None:
    told: list[Progress] = []
    times = iter([0.0, 1.0])
    meter = ProgressMeter("o/m", told.append, lambda: next(times))
    meter.report("tensors", 100, 200)
    meter.report("tensors", 50, 200)
    assert (told[1].rate, told[1].eta) == (0.0, None)


def test_each_phase_counts_its_own() -> None:
    told: list[Progress] = []
    times = iter([0.0, 1.0, 1.5, 2.5])
    meter = ProgressMeter("o/m", told.append, lambda: next(times))
    for phase, done in (("tensors", 0), ("tensors", 100), ("writing", 0), ("writing", 50)):
        meter.report(phase, done, 100)
    assert [moment.rate for moment in told] == [0.0, 100.0, 0.0, 50.0]
