"""A slot's life, its faults, and a supervisor killed at each of its steps."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import pytest

from hub_runner.interfaces import RegistrarRefusedError, UnitStatus
from hub_runner.slot_state import SlotState
from hub_runner.state_machine import LEFTOVER_CHECKS
from tests.runner_setup.worlds import FIT, Killed, World, make_state_machine, sick, until

if TYPE_CHECKING:
    from hub_runner.config import Config
    from hub_runner.layout import Layout
    from hub_runner.state_machine import SlotStateMachine


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def slot(config: Config, layout: Layout, world: World) -> SlotStateMachine:
    return make_state_machine(config, layout, world)


def finish(world: World) -> None:
    """A job comes and takes a minute."""
    world.take_job()
    world.time += 60
    world.end_job()


def test_a_healthy_slot_runs_one_job_after_another_each_on_a_runner_of_its_own(
    slot: SlotStateMachine, world: World
) -> None:
    for job in range(3):
        assert until(slot, world, "running").runner_id == job + 1
        finish(world)
        assert until(slot, world, "free").jobs == job + 1
    assert world.registered == {}


def test_a_sick_slot_is_never_offered_and_says_why(slot: SlotStateMachine, world: World) -> None:
    world.diagnosis = sick("gpu0 Xid 79")
    assert until(slot, world, "quarantined").reason == "xid: gpu0 Xid 79"
    for _ in range(400):
        world.time += slot.advance()
    assert (world.registrations, slot.state_file.read().phase) == (0, "quarantined")
    world.diagnosis = FIT
    assert until(slot, world, "running").reason == ""


def test_resume_looks_at_a_quarantined_slot_at_once(slot: SlotStateMachine, world: World) -> None:
    world.diagnosis = sick("gpu0 Xid 79")
    until(slot, world, "quarantined")
    world.diagnosis = FIT
    slot.state_file.resume()
    until(slot, world, "free", steps=1)


def test_memory_that_the_driver_gives_back_slowly_is_waited_for(slot: SlotStateMachine, world: World) -> None:
    until(slot, world, "running")
    finish(world)
    world.slow_to_let_go = LEFTOVER_CHECKS - 1
    until(slot, world, "free")


def test_what_survives_a_job_quarantines_the_slot(slot: SlotStateMachine, world: World) -> None:
    until(slot, world, "running")
    finish(world)
    world.left = ("pid 4711 python3",)
    assert until(slot, world, "free", "quarantined").reason == "left over: pid 4711 python3"
    world.left = ()
    until(slot, world, "running")


def test_what_lies_around_before_the_first_job_counts_too(slot: SlotStateMachine, world: World) -> None:
    world.left = ("gpu0: 70000 MiB in use",)
    assert "70000 MiB" in until(slot, world, "quarantined").reason


def test_a_drained_slot_stays_empty_and_an_idle_runner_is_withdrawn(slot: SlotStateMachine, world: World) -> None:
    until(slot, world, "running")
    slot.state_file.drain("maintenance")
    until(slot, world, "free")
    for _ in range(20):
        world.time += slot.advance()
    assert (slot.state_file.read().phase, world.active, world.registered) == ("free", False, {})
    slot.state_file.resume()
    until(slot, world, "running")


def test_draining_never_cuts_a_job_off(slot: SlotStateMachine, world: World) -> None:
    until(slot, world, "running")
    world.take_job()
    slot.state_file.drain("maintenance")
    for _ in range(20):
        world.time += slot.advance()
    assert world.active
    world.end_job()
    until(slot, world, "free")
    assert not world.active


def test_an_idle_runner_is_examined_again_after_its_time_and_a_busy_one_left_alone(
    slot: SlotStateMachine, world: World
) -> None:
    until(slot, world, "running")
    world.time += 61 * 60
    until(slot, world, "running", steps=6)
    assert world.registrations == 2
    world.take_job()
    world.time += 61 * 60
    until(slot, world, "running", steps=6)
    assert (world.registrations, world.active) == (2, True)


def test_github_down_costs_a_wait_and_nothing_else(slot: SlotStateMachine, world: World) -> None:
    world.down = True
    until(slot, world, "registering")
    waits = [slot.advance() for _ in range(10)]
    assert waits == sorted(waits)
    assert waits[-1] > 60
    assert "GitHub is down" in slot.state_file.read().reason
    world.down = False
    until(slot, world, "running")


def test_github_down_while_a_runner_is_taken_back_is_made_good_later(slot: SlotStateMachine, world: World) -> None:
    until(slot, world, "running")
    world.down = True
    world.active = False  # it died, and its registration is still there
    state = until(slot, world, "free", "quarantined")
    assert state.orphans == (1,)
    world.down = False
    until(slot, world, "running")
    assert set(world.registered) == {2}
    assert slot.state_file.read().orphans == ()


def test_a_refusal_waits_longer_and_longer(
    slot: SlotStateMachine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RegistrarRefusedError("403 Resource not accessible by integration")

    monkeypatch.setattr(world, "register", refuse)
    waits = []
    for _ in range(4):
        waits.append(slot.advance())
        assert "403" in slot.state_file.read().reason
    assert waits == sorted(set(waits))


def test_a_unit_that_does_not_start_leaves_no_registration(slot: SlotStateMachine, world: World) -> None:
    world.start_fails = True
    until(slot, world, "stopping")
    until(slot, world, "free")
    assert world.registered == {}


@pytest.mark.parametrize("ended", [UnitStatus(False, "exit-code", 1), UnitStatus(False, "success", 0)])
def test_a_runner_that_dies_young_three_times_is_no_runner(
    slot: SlotStateMachine, world: World, ended: UnitStatus
) -> None:
    for _ in range(3):
        until(slot, world, "running")
        world.active, world.ended = False, ended
        until(slot, world, "free", "quarantined")
    assert "ended after" in slot.state_file.read().reason
    assert slot.state_file.read().phase == "quarantined"


def test_a_version_that_github_no_longer_accepts_is_not_offered_again(slot: SlotStateMachine, world: World) -> None:
    until(slot, world, "running")
    world.time += 60
    world.end_job(UnitStatus(False, "exit-code", 7))
    assert "no longer accepts" in until(slot, world, "quarantined").reason


def test_an_unreadable_page_keeps_a_running_job_and_cleans_up_otherwise(slot: SlotStateMachine, world: World) -> None:
    until(slot, world, "running")
    world.take_job()
    slot.state_file.path.write_text("{")
    until(slot, world, "running", steps=1)
    assert world.active
    world.end_job()
    slot.state_file.path.write_text("{")
    until(slot, world, "verifying_clean", "free", steps=2)


def test_a_lost_page_keeps_a_running_job(slot: SlotStateMachine, world: World) -> None:
    until(slot, world, "running")
    world.take_job()
    slot.state_file.path.unlink()
    until(slot, world, "running", steps=1)
    assert world.active


# Killed anywhere ---------------------------------------------------------------------------------------------------


def life(slot: SlotStateMachine, world: World) -> None:
    """Everything that a slot lives through: an idle turn, a job, a drain, a quarantine."""
    until(slot, world, "running")
    world.time += 61 * 60
    until(slot, world, "free")
    until(slot, world, "running")
    finish(world)
    until(slot, world, "free")
    until(slot, world, "running")


def effects_of_a_life(config: Config, layout: Layout) -> int:
    world = World()
    life(make_state_machine(config, layout, world), world)
    return world.effects


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_supervisor_killed_at_any_step_leaves_nothing_behind(
    config: Config, layout: Layout, when: Literal["before", "after"]
) -> None:
    every = effects_of_a_life(config, layout)
    assert every > 25
    for number in range(1, every + 1):
        world = World(kill_at=(number, when))
        slot = make_state_machine(config, layout, world)
        slot.state_file.path.unlink(missing_ok=True)
        with suppress(Killed):
            life(slot, world)
        again = make_state_machine(config, layout, world)  # systemd starts it anew; the job, if any, went on meanwhile
        if world.active:
            until(again, world, "running")
            finish(world)
            until(again, world, "free")
        until(again, world, "running")
        assert list(world.registered) == [world.registrations], f"killed {when} effect {number}: {world.registered}"
        assert again.state_file.read() == SlotState(
            **{**vars(again.state_file.read()), "phase": "running", "runner_id": world.registrations, "orphans": ()}
        )
