"""A host and a GitHub in memory, and a way to kill the supervisor before or after each of its effects on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ci.doctor import Check, Diagnosis
from hub_runner.interfaces import HostError, JitRunner, RegistrarUnavailableError, UnitStatus
from hub_runner.slot_state import SlotState, SlotStateFile
from hub_runner.state_machine import SlotStateMachine

if TYPE_CHECKING:
    from collections.abc import Callable

    from hub_runner.config import Config, Slot
    from hub_runner.layout import Layout

FIT = Diagnosis(True, ())


def unfit(reason: str) -> Diagnosis:
    return Diagnosis(False, (Check("xid", "fail", reason),))


class Killed(BaseException):
    """kill -9: nothing in the supervisor may catch it, and nothing in it runs after it."""


@dataclass
class Simulation:
    """One slot's machine and GitHub. It checks, at each call, what must never happen."""

    time: float = 1000.0
    diagnosis: Diagnosis = FIT
    examined: bool = False
    active: bool = False
    ended: UnitStatus = field(default_factory=lambda: UnitStatus(False))
    left: tuple[str, ...] = ()
    slow_to_let_go: int = 0
    runner: int | None = None
    registered: dict[int, Any] = field(default_factory=dict)
    busy: set[int] = field(default_factory=set)
    down: bool = False
    start_fails: bool = False
    jobs: int = 0
    registrations: int = 0
    effects: int = 0
    kill_at: tuple[int, Literal["before", "after"]] | None = None

    # The supervisor's death ----------------------------------------------------------------------------------------

    def effect(self, act: Callable[[], Any]) -> Any:
        self.effects += 1
        if self.kill_at == (self.effects, "before"):
            raise Killed
        answer = act()
        if self.kill_at == (self.effects, "after"):
            raise Killed
        return answer

    # Host ----------------------------------------------------------------------------------------------------------

    def diagnose(self, _: Slot) -> Diagnosis:
        def act() -> Diagnosis:
            self.examined = self.diagnosis.fit
            return self.diagnosis

        answer: Diagnosis = self.effect(act)
        return answer

    def read_unit(self, _: Slot) -> UnitStatus:
        return UnitStatus(True) if self.active else self.ended

    def start_runner(self, _: Slot, jit: JitRunner) -> None:
        def act() -> None:
            assert not self.active, "a second runner on one slot"
            assert self.examined, "a runner on a slot that was not found fit since its last job"
            assert not self.left, f"a runner beside {self.left}"
            assert jit.runner_id in self.registered, "a runner without a registration"
            if self.start_fails:
                raise HostError("Job for the unit failed")
            self.active, self.examined, self.runner = True, False, jit.runner_id

        self.effect(act)

    def stop_runner(self, _: Slot) -> None:
        def act() -> None:
            if self.active:
                self.active, self.ended, self.runner = False, UnitStatus(False), None

        self.effect(act)

    def find_leftovers(self, _: Slot) -> tuple[str, ...]:
        if self.slow_to_let_go:
            self.slow_to_let_go -= 1
            return ("gpu0: 70000 MiB in use",)
        return self.left

    # GitHub --------------------------------------------------------------------------------------------------------

    def register(self, _: int, name: str) -> JitRunner:
        def act() -> JitRunner:
            self.check_github()
            self.registrations += 1
            self.registered[self.registrations] = name
            return JitRunner(self.registrations, "secret")

        answer: JitRunner = self.effect(act)
        return answer

    def find_runner(self, name: str) -> int | None:
        self.check_github()
        return next((known for known, registered in self.registered.items() if registered == name), None)

    def remove_runner(self, runner_id: int) -> Literal["removed", "busy"]:
        def act() -> Literal["removed", "busy"]:
            self.check_github()
            if runner_id in self.busy:
                return "busy"
            self.registered.pop(runner_id, None)
            return "removed"

        answer: Literal["removed", "busy"] = self.effect(act)
        return answer

    def check_github(self) -> None:
        if self.down:
            raise RegistrarUnavailableError("GitHub is down")

    # What happens by itself ----------------------------------------------------------------------------------------

    def take_job(self) -> None:
        assert self.active
        assert self.runner is not None
        self.busy.add(self.runner)

    def end_job(self, unit: UnitStatus | None = None) -> None:
        assert self.runner is not None
        self.busy.discard(self.runner)
        self.registered.pop(self.runner, None)
        self.active, self.runner, self.ended = False, None, unit or UnitStatus(False)
        self.jobs += 1


class KilledStateFile(SlotStateFile):
    """A state file where each write is an effect too."""

    def __init__(self, layout: Layout, simulation: Simulation) -> None:
        super().__init__(layout.state, 0)
        self.simulation = simulation

    def write(self, state: SlotState) -> SlotState:
        written: SlotState = self.simulation.effect(lambda: super(KilledStateFile, self).write(state))
        return written


def make_state_machine(config: Config, layout: Layout, simulation: Simulation) -> SlotStateMachine:
    """The state machine of slot 0, as it is after a start of the service."""
    state_file = KilledStateFile(layout, simulation)
    return SlotStateMachine(
        config.get_slot(0),
        config,
        host=simulation,
        registrar=simulation,
        state_file=state_file,
        monotonic=lambda: simulation.time,
    )


def advance_until(state_machine: SlotStateMachine, simulation: Simulation, *phases: str, steps: int = 200) -> SlotState:
    """Advance, with the waits in between, until the state file has one of `phases`."""
    for _ in range(steps):
        simulation.time += state_machine.advance()
        if (state := state_machine.state_file.read()).phase in phases:
            return state
    raise AssertionError(f"still {state_machine.state_file.read()} after {steps} steps")
