"""The clock of the phases: each second counts once, for the innermost block, whatever a worker reports."""

from __future__ import annotations

import math
import threading
import time
from types import SimpleNamespace

import pytest

from ci import phases
from ci.phases import PHASES, Key, PhaseClock, bound_seconds, claim_forward


class Clock:
    """A clock that stands still until a test lets seconds pass."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def pass_seconds(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(phases, "time", SimpleNamespace(perf_counter=lambda: made.seconds))
    return made


def seconds_of(clock: PhaseClock) -> dict[Key, tuple[float, float]]:
    return {(one.phase, one.detail): (one.seconds, one.beside) for one in clock.take()}


def test_an_inner_block_counts_for_its_own_phase_only(now: Clock) -> None:
    clock = PhaseClock()
    with clock.measure("convert"):
        now.pass_seconds(1)
        with clock.measure("start", "subject"):
            now.pass_seconds(2)
        now.pass_seconds(4)
        with clock.measure("start", "subject"):
            now.pass_seconds(8)
    assert seconds_of(clock) == {("convert", ""): (5, 0), ("start", "subject"): (10, 0)}


def test_the_clock_is_this_machines() -> None:
    clock = PhaseClock()
    started = time.perf_counter()
    with clock.measure("load"):
        inner = time.perf_counter()
        time.sleep(0.03)
        slept = time.perf_counter() - inner
    wall = time.perf_counter() - started
    (one,) = clock.take()
    assert slept <= one.seconds <= wall


def test_seconds_are_taken_once_and_in_the_order_of_the_phases() -> None:
    clock = PhaseClock()
    for phase in reversed(PHASES):
        with clock.measure(phase):
            pass
    assert [one.phase for one in clock.take()] == list(PHASES)
    assert clock.take() == ()


def test_a_block_that_fails_counts_too() -> None:
    clock = PhaseClock()
    with pytest.raises(ValueError, match="no"), clock.measure("load"):
        raise ValueError("no")
    assert [one.phase for one in clock.take()] == ["load"]


@pytest.mark.parametrize(
    ("claimed", "counted"),
    [(0.5, 0.5), (5.0, 1.0), (-1.0, 0.0), (math.nan, 0.0), (math.inf, 0.0), (-math.inf, 0.0), (1e308, 1.0)],
)
def test_reported_seconds_are_a_number_within_the_wall_time(claimed: float, counted: float) -> None:
    assert bound_seconds(claimed, 1.0) == counted


@pytest.mark.parametrize("lie", [math.nan, math.inf, -1.0, 1e9])
def test_what_a_block_claims_never_exceeds_it(lie: float, now: Clock) -> None:
    clock = PhaseClock()
    with clock.measure("forward") as measured:
        now.pass_seconds(3)
        measured.split(claim_forward("subject", load=lie, forward=lie, compiling=lie), rest=("other", "trace files"))
    times = clock.take()
    assert all(0 <= one.seconds <= 3 for one in times)
    assert sum(one.seconds for one in times) == 3


def test_compilation_is_a_part_of_the_forward_pass() -> None:
    claims = claim_forward("subject", load=1.0, forward=5.0, compiling=4.0)
    assert claims == {("load", "subject"): 1.0, ("compile", "subject"): 4.0, ("forward", "subject"): 1.0}


def test_another_thread_works_beside_the_wall_time(now: Clock) -> None:
    clock = PhaseClock()

    def work() -> None:
        with clock.measure("load"):
            now.pass_seconds(3)

    thread = threading.Thread(target=work)
    with clock.measure("convert"):
        thread.start()
        thread.join()
    assert seconds_of(clock) == {("load", ""): (0, 3), ("convert", ""): (3, 0)}


def test_what_is_waited_for_counts_as_the_wall_time(now: Clock) -> None:
    clock, begun, waited_for = PhaseClock(), threading.Event(), threading.Event()

    def work() -> None:
        with clock.measure("load"):
            begun.set()
            assert waited_for.wait(60)
            now.pass_seconds(4)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    now.pass_seconds(3)
    with clock.wait():
        waited_for.set()
        thread.join()
        now.pass_seconds(1)
    assert seconds_of(clock) == {("load", ""): (4, 3), ("other", "waiting"): (1, 0)}


def test_the_listener_hears_every_change_of_the_own_thread() -> None:
    heard: list[Key | None] = []
    clock = PhaseClock(heard.append)
    with clock.measure("convert", "import"), clock.measure("start", "subject"):
        thread = threading.Thread(target=lambda: clock.measure("load").__enter__())
        thread.start()
        thread.join()
    assert heard == [("convert", "import"), ("start", "subject"), ("convert", "import"), None]
