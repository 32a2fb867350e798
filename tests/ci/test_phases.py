"""The clock of the phases: each second counts once, for the innermost block, whatever a worker reports."""

from __future__ import annotations

import math
import threading
import time

import pytest

from ci.phases import PHASES, Key, PhaseClock, PhaseTime, bound_seconds, claim_forward

TICK = 0.03


def times_of(clock: PhaseClock) -> dict[Key, PhaseTime]:
    return {(one.phase, one.detail): one for one in clock.take()}


def test_an_inner_block_counts_for_its_own_phase_only() -> None:
    clock, started = PhaseClock(), time.perf_counter()
    with clock.measure("convert"):
        time.sleep(TICK)
        with clock.measure("start", "subject"):
            time.sleep(2 * TICK)
        with clock.measure("start", "subject"):
            pass
    wall = time.perf_counter() - started
    times = times_of(clock)
    assert TICK <= times["convert", ""].seconds < wall - 2 * TICK
    assert times["start", "subject"].seconds >= 2 * TICK
    assert sum(one.seconds for one in times.values()) == pytest.approx(wall, abs=TICK / 10)


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
def test_what_a_block_claims_never_exceeds_it(lie: float) -> None:
    clock, started = PhaseClock(), time.perf_counter()
    with clock.measure("forward") as measured:
        time.sleep(TICK)
        measured.split(claim_forward("subject", load=lie, forward=lie, compiling=lie), rest=("other", "trace files"))
    wall = time.perf_counter() - started
    times = clock.take()
    assert all(0 <= one.seconds <= wall for one in times)
    assert TICK <= sum(one.seconds for one in times) <= wall


def test_compilation_is_a_part_of_the_forward_pass() -> None:
    claims = claim_forward("subject", load=1.0, forward=5.0, compiling=4.0)
    assert claims == {("load", "subject"): 1.0, ("compile", "subject"): 4.0, ("forward", "subject"): 1.0}


def test_another_thread_works_beside_the_wall_time() -> None:
    clock = PhaseClock()

    def work() -> None:
        with clock.measure("load"):
            time.sleep(TICK)

    thread = threading.Thread(target=work)
    with clock.measure("convert"):
        thread.start()
        thread.join()
    times = times_of(clock)
    assert (times["load", ""].seconds, times["convert", ""].beside) == (0.0, 0.0)
    assert times["load", ""].beside >= TICK


def test_what_is_waited_for_counts_as_the_wall_time() -> None:
    clock = PhaseClock()

    def work() -> None:
        with clock.measure("load"):
            time.sleep(4 * TICK)

    thread = threading.Thread(target=work)
    started = time.perf_counter()
    thread.start()
    time.sleep(TICK)
    waited_from = time.perf_counter()
    with clock.wait():
        thread.join()
    ended = time.perf_counter()
    times = times_of(clock)
    assert times["load", ""].beside == pytest.approx(waited_from - started, abs=TICK / 2)
    own = sum(one.seconds for one in times.values())
    assert own == pytest.approx(ended - waited_from, abs=TICK / 2)
    assert times["other", "waiting"].seconds < TICK


def test_the_listener_hears_every_change_of_the_own_thread() -> None:
    heard: list[Key | None] = []
    clock = PhaseClock(heard.append)
    with clock.measure("convert", "import"), clock.measure("start", "subject"):
        thread = threading.Thread(target=lambda: clock.measure("load").__enter__())
        thread.start()
        thread.join()
    assert heard == [("convert", "import"), ("start", "subject"), ("convert", "import"), None]
