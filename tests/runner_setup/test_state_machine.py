"""A slot's life, its faults, and a supervisor killed at each of its steps."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import pytest

from hub_runner.interfaces import RegistrarRefusedError, UnitStatus
from hub_runner.slot_state import SlotState
from hub_runner.state_machine import LEFTOVER_CHECKS
from tests.runner_setup.simulation import FIT, Killed, Simulation, advance_until, make_state_machine, unfit

if TYPE_CHECKING:
    from hub_runner.config import Config
    from hub_runner.layout import Layout
    from hub_runner.state_machine import SlotStateMachine


@pytest.fixture
def simulation() -> Simulation:
    return Simulation()


@pytest.fixture
def slot(config: Config, layout: Layout, simulation: Simulation) -> SlotStateMachine:
    return make_state_machine(config, layout, simulation)


def finish(simulation: Simulation) -> None:
    """A job comes and takes a minute."""
    simulation.take_job()
    simulation.time += 60
    simulation.end_job()


def test_a_healthy_slot_runs_one_job_after_another_each_on_a_runner_of_its_own(
    slot: SlotStateMachine, simulation: Simulation
) -> None:
    for job in range(3):
        assert advance_until(slot, simulation, "running").runner_id == job + 1
        finish(simulation)
        assert advance_until(slot, simulation, "free").jobs == job + 1
    assert simulation.registered == {}


def test_a_sick_slot_is_never_offered_and_says_why(slot: SlotStateMachine, simulation: Simulation) -> None:
    simulation.diagnosis = unfit("gpu0 Xid 79")
    assert advance_until(slot, simulation, "quarantined").reason == "xid: gpu0 Xid 79"
    for _ in range(400):
        simulation.time += slot.advance()
    assert (simulation.registrations, slot.state_file.read().phase) == (0, "quarantined")
    simulation.diagnosis = FIT
    assert advance_until(slot, simulation, "running").reason == ""


def test_resume_looks_at_a_quarantined_slot_at_once(slot: SlotStateMachine, simulation: Simulation) -> None:
    simulation.diagnosis = unfit("gpu0 Xid 79")
    advance_until(slot, simulation, "quarantined")
    simulation.diagnosis = FIT
    slot.state_file.resume()
    advance_until(slot, simulation, "free", steps=1)


def test_memory_that_the_driver_gives_back_slowly_is_waited_for(slot: SlotStateMachine, simulation: Simulation) -> None:
    advance_until(slot, simulation, "running")
    finish(simulation)
    simulation.slow_to_let_go = LEFTOVER_CHECKS - 1
    advance_until(slot, simulation, "free")


def test_what_survives_a_job_quarantines_the_slot(slot: SlotStateMachine, simulation: Simulation) -> None:
    advance_until(slot, simulation, "running")
    finish(simulation)
    simulation.left = ("pid 4711 python3",)
    assert advance_until(slot, simulation, "free", "quarantined").reason == "left over: pid 4711 python3"
    simulation.left = ()
    advance_until(slot, simulation, "running")


def test_what_lies_around_before_the_first_job_counts_too(slot: SlotStateMachine, simulation: Simulation) -> None:
    simulation.left = ("gpu0: 70000 MiB in use",)
    assert "70000 MiB" in advance_until(slot, simulation, "quarantined").reason


def test_a_drained_slot_stays_empty_and_an_idle_runner_is_withdrawn(
    slot: SlotStateMachine, simulation: Simulation
) -> None:
    advance_until(slot, simulation, "running")
    slot.state_file.drain("maintenance")
    advance_until(slot, simulation, "free")
    for _ in range(20):
        simulation.time += slot.advance()
    assert (slot.state_file.read().phase, simulation.active, simulation.registered) == ("free", False, {})
    slot.state_file.resume()
    advance_until(slot, simulation, "running")


def test_draining_never_cuts_a_job_off(slot: SlotStateMachine, simulation: Simulation) -> None:
    advance_until(slot, simulation, "running")
    simulation.take_job()
    slot.state_file.drain("maintenance")
    for _ in range(20):
        simulation.time += slot.advance()
    assert simulation.active
    simulation.end_job()
    advance_until(slot, simulation, "free")
    assert not simulation.active


def test_an_idle_runner_is_examined_again_after_its_time_and_a_busy_one_left_alone(
    slot: SlotStateMachine, simulation: Simulation
) -> None:
    advance_until(slot, simulation, "running")
    simulation.time += 61 * 60
    advance_until(slot, simulation, "running", steps=6)
    assert simulation.registrations == 2
    simulation.take_job()
    simulation.time += 61 * 60
    advance_until(slot, simulation, "running", steps=6)
    assert (simulation.registrations, simulation.active) == (2, True)


def test_github_down_costs_a_wait_and_nothing_else(slot: SlotStateMachine, simulation: Simulation) -> None:
    simulation.down = True
    advance_until(slot, simulation, "registering")
    waits = [slot.advance() for _ in range(10)]
    assert waits == sorted(waits)
    assert waits[-1] > 60
    assert "GitHub is down" in slot.state_file.read().reason
    simulation.down = False
    advance_until(slot, simulation, "running")


def test_github_down_while_a_runner_is_taken_back_is_made_good_later(
    slot: SlotStateMachine, simulation: Simulation
) -> None:
    advance_until(slot, simulation, "running")
    simulation.down = True
    simulation.active = False  # it died, and its registration is still there
    state = advance_until(slot, simulation, "free", "quarantined")
    assert state.orphans == (1,)
    simulation.down = False
    advance_until(slot, simulation, "running")
    assert set(simulation.registered) == {2}
    assert slot.state_file.read().orphans == ()


def test_a_refusal_waits_longer_and_longer(
    slot: SlotStateMachine, simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RegistrarRefusedError("403 Resource not accessible by integration")

    monkeypatch.setattr(simulation, "register", refuse)
    waits = []
    for _ in range(4):
        waits.append(slot.advance())
        assert "403" in slot.state_file.read().reason
    assert waits == sorted(set(waits))


def test_a_unit_that_does_not_start_leaves_no_registration(slot: SlotStateMachine, simulation: Simulation) -> None:
    simulation.start_fails = True
    advance_until(slot, simulation, "stopping")
    advance_until(slot, simulation, "free")
    assert simulation.registered == {}


@pytest.mark.parametrize("ended", [UnitStatus(False, "exit-code", 1), UnitStatus(False, "success", 0)])
def test_a_runner_that_dies_young_three_times_is_no_runner(
    slot: SlotStateMachine, simulation: Simulation, ended: UnitStatus
) -> None:
    for _ in range(3):
        advance_until(slot, simulation, "running")
        simulation.active, simulation.ended = False, ended
        advance_until(slot, simulation, "free", "quarantined")
    assert "ended after" in slot.state_file.read().reason
    assert slot.state_file.read().phase == "quarantined"


def test_a_version_that_github_no_longer_accepts_is_not_offered_again(
    slot: SlotStateMachine, simulation: Simulation
) -> None:
    advance_until(slot, simulation, "running")
    simulation.time += 60
    simulation.end_job(UnitStatus(False, "exit-code", 7))
    assert "no longer accepts" in advance_until(slot, simulation, "quarantined").reason


def test_an_unreadable_page_keeps_a_running_job_and_cleans_up_otherwise(
    slot: SlotStateMachine, simulation: Simulation
) -> None:
    advance_until(slot, simulation, "running")
    simulation.take_job()
    slot.state_file.path.write_text("{")
    advance_until(slot, simulation, "running", steps=1)
    assert simulation.active
    simulation.end_job()
    slot.state_file.path.write_text("{")
    advance_until(slot, simulation, "verifying_clean", "free", steps=2)


def test_a_lost_page_keeps_a_running_job(slot: SlotStateMachine, simulation: Simulation) -> None:
    advance_until(slot, simulation, "running")
    simulation.take_job()
    slot.state_file.path.unlink()
    advance_until(slot, simulation, "running", steps=1)
    assert simulation.active


# Killed anywhere ---------------------------------------------------------------------------------------------------


def life(slot: SlotStateMachine, simulation: Simulation) -> None:
    """Everything that a slot lives through: an idle turn, a job, a drain, a quarantine."""
    advance_until(slot, simulation, "running")
    simulation.time += 61 * 60
    advance_until(slot, simulation, "free")
    advance_until(slot, simulation, "running")
    finish(simulation)
    advance_until(slot, simulation, "free")
    advance_until(slot, simulation, "running")


def effects_of_a_life(config: Config, layout: Layout) -> int:
    simulation = Simulation()
    life(make_state_machine(config, layout, simulation), simulation)
    return simulation.effects


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_supervisor_killed_at_any_step_leaves_nothing_behind(
    config: Config, layout: Layout, when: Literal["before", "after"]
) -> None:
    every = effects_of_a_life(config, layout)
    assert every > 25
    for number in range(1, every + 1):
        simulation = Simulation(kill_at=(number, when))
        slot = make_state_machine(config, layout, simulation)
        slot.state_file.path.unlink(missing_ok=True)
        with suppress(Killed):
            life(slot, simulation)
        again = make_state_machine(
            config, layout, simulation
        )  # systemd starts it anew; the job, if any, went on meanwhile
        if simulation.active:
            advance_until(again, simulation, "running")
            finish(simulation)
            advance_until(again, simulation, "free")
        advance_until(again, simulation, "running")
        assert list(simulation.registered) == [simulation.registrations], (
            f"killed {when} effect {number}: {simulation.registered}"
        )
        assert again.state_file.read() == SlotState(
            **{
                **vars(again.state_file.read()),
                "phase": "running",
                "runner_id": simulation.registrations,
                "orphans": (),
            }
        )
