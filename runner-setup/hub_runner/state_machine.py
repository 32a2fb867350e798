"""The state machine of one slot: examine, register, run one job, stop, verify that nothing is left, examine again.

Each step writes its phase to the state file before it acts. So a supervisor that reads `registering` or `starting` when
a step begins knows that an earlier one died in between, and cleans up. It takes over a slot that is `running`.
All waiting uses monotonic time: a clock that is set forwards or back changes nothing here.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from hub_runner.interfaces import HostError, RegistrarRefusedError, RegistrarUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hub_runner.config import Config, Slot
    from hub_runner.interfaces import Host, Registrar, UnitStatus
    from hub_runner.slot_state import Phase, SlotState, SlotStateFile

log = logging.getLogger("hub-runner")

POLL = 5.0
"""Seconds between two looks at a running unit, or at GPU memory that the driver has not freed yet."""

LEFTOVER_CHECKS = 12
"""Checks for leftovers before a slot is put in quarantine: a minute."""

SHORTEST_LIFE = 10.0
"""Seconds. A runner that ends sooner ran no job: it could not connect, or its configuration was refused."""

RESULTS_OF_JOBS = frozenset({"success", "timeout", "signal", "core-dump", "oom-kill"})
"""Results of a unit that a job can cause: processes that did not end, or that took all the memory. They never count
against the slot, so that no job can put a slot in quarantine by them."""

MAX_FAILURES = 3
DEPRECATED_STATUS = 7
"""Exit status of a runner when GitHub no longer accepts its version."""

LONGEST_BACKOFF = 600.0


class SlotStateMachine:
    """The state machine of one slot. `advance` does one step and returns the seconds to wait before the next."""

    def __init__(
        self,
        slot: Slot,
        config: Config,
        *,
        host: Host,
        registrar: Registrar,
        state_file: SlotStateFile,
        monotonic: Callable[[], float],
    ) -> None:
        self.slot, self.config = slot, config
        self.host, self.registrar, self.state_file, self.monotonic = host, registrar, state_file, monotonic
        self.started_at = self.idle_checked_at = self.examined_at = monotonic()
        self.leftover_checks = 0
        self.retries = 0

    def advance(self) -> float:
        """Do one step from the phase in the state file.

        Raises HostError when systemd does not answer.
        """
        state = self.state_file.read()
        steps: dict[Phase, Callable[[SlotState], float]] = {
            "free": self._step_free,
            "registering": self._recover_registering,
            "starting": self._recover_starting,
            "running": self._step_running,
            "stopping": self._step_stopping,
            "verifying_clean": self._step_verifying_clean,
            "quarantined": self._step_quarantined,
        }
        return steps[state.phase](state)

    def _write_state(self, state: SlotState, *, wait: float = 0.0, **changes: object) -> float:
        """Write the changed state and log it; return `wait`, the seconds until the next step."""
        written = self.state_file.write(replace(state, **changes))  # type: ignore[arg-type]
        reason = f": {written.reason}" if written.reason else ""
        log.info("slot %d: %s %s%s", self.slot.index, written.phase, written.runner_name, reason)
        return wait

    def _next_backoff(self) -> float:
        """Count one more retry; return the seconds to wait before it."""
        self.retries += 1
        return min(LONGEST_BACKOFF, POLL * float(2**self.retries))

    # From free to running ------------------------------------------------------------------------------------------

    def _step_free(self, state: SlotState) -> float:
        if self.host.read_unit(self.slot).active:  # the state file was lost: let the job end
            return self._take_over(state)
        if self.state_file.drained:
            return POLL
        self.state_file.take_resume_request()
        state = self._remove_orphans(state)
        if reason := self._find_unfitness():
            return self._quarantine(state, reason)
        return self._offer_runner(state)

    def _find_unfitness(self) -> str:
        """Return why the slot cannot run a job; "" when it can."""
        if leftovers := self.host.find_leftovers(self.slot):
            return _describe_leftovers(leftovers)
        diagnosis = self.host.diagnose(self.slot)
        return "" if diagnosis.fit else "; ".join(diagnosis.reasons) or "the doctor gave no reason"

    def _offer_runner(self, state: SlotState) -> float:
        name = f"{self.config.host.name}-{self.slot.index}-{secrets.token_hex(4)}"
        self._write_state(state, phase="registering", runner_name=name, runner_id=None, reason="")
        state = self.state_file.read()
        try:
            runner = self.registrar.register(self.slot.index, name)
        except RegistrarRefusedError as refusal:
            wait = self._next_backoff()
            return self._write_state(state, phase="free", runner_name="", reason=str(refusal), wait=wait)
        except RegistrarUnavailableError as failure:
            wait = self._next_backoff()
            return self._write_state(state, reason=str(failure), wait=wait)
        self.retries = 0
        self._write_state(state, phase="starting", runner_id=runner.runner_id, reason="")
        try:
            self.host.start_runner(self.slot, runner)
        except HostError as failure:
            return self._write_state(self.state_file.read(), phase="stopping", reason=str(failure))
        self.started_at = self.idle_checked_at = self.monotonic()
        return self._write_state(self.state_file.read(), phase="running", wait=POLL)

    def _recover_registering(self, state: SlotState) -> float:
        """Look for a registration under the name in the state file: nobody has its configuration."""
        try:
            runner_id = self.registrar.find_runner(state.runner_name)
        except InfrastructureError as failure:
            wait = self._next_backoff()
            return self._write_state(state, reason=str(failure), wait=wait)
        self.retries = 0
        return self._write_state(state, phase="stopping", runner_id=runner_id)

    def _recover_starting(self, state: SlotState) -> float:
        if self.host.read_unit(self.slot).active:
            return self._take_over(state)
        return self._write_state(state, phase="stopping")

    def _take_over(self, state: SlotState) -> float:
        self.started_at = self.idle_checked_at = self.monotonic()
        return self._write_state(state, phase="running", reason="", wait=POLL)

    # From running to free ------------------------------------------------------------------------------------------

    def _step_running(self, state: SlotState) -> float:
        unit = self.host.read_unit(self.slot)
        if not unit.active:
            return self._record_end(state, unit)
        idle_too_long = self.monotonic() - self.idle_checked_at > 60 * self.config.runner.max_idle_minutes
        if (self.state_file.drained or idle_too_long) and state.runner_id is not None:
            return self._withdraw_runner(state, state.runner_id)
        return POLL

    def _withdraw_runner(self, state: SlotState, runner_id: int) -> float:
        """Remove an idle runner; GitHub refuses while it has a job, so no job ends."""
        self.idle_checked_at = self.monotonic()
        try:
            answer = self.registrar.remove_runner(runner_id)
        except InfrastructureError as failure:
            log.warning("slot %d: %s", self.slot.index, failure)
            return self._next_backoff()
        self.retries = 0
        return POLL if answer == "busy" else self._write_state(state, phase="stopping", runner_id=None)

    def _record_end(self, state: SlotState, unit: UnitStatus) -> float:
        seconds = self.monotonic() - self.started_at
        failed = unit.result not in RESULTS_OF_JOBS or seconds < SHORTEST_LIFE
        reason = f"{self.slot.unit} ended after {seconds:.0f} s: {unit.result}, status {unit.status}" if failed else ""
        jobs, failures = (state.jobs, state.failures + 1) if failed else (state.jobs + 1, 0)
        if unit.status == DEPRECATED_STATUS:
            failures, reason = MAX_FAILURES, "GitHub no longer accepts this runner version: run `hub-runner update`"
        return self._write_state(state, phase="stopping", reason=reason, jobs=jobs, failures=failures)

    def _step_stopping(self, state: SlotState) -> float:
        self.host.stop_runner(self.slot)
        orphans = (*state.orphans, *((state.runner_id,) if state.runner_id is not None else ()))
        self.leftover_checks = 0
        return self._write_state(state, phase="verifying_clean", runner_id=None, runner_name="", orphans=orphans)

    def _step_verifying_clean(self, state: SlotState) -> float:
        leftovers = self.host.find_leftovers(self.slot)
        self.leftover_checks += 1
        if leftovers and self.leftover_checks < LEFTOVER_CHECKS:
            return POLL
        if leftovers:
            return self._quarantine(state, _describe_leftovers(leftovers))
        if state.failures >= MAX_FAILURES:
            return self._quarantine(replace(state, failures=0), state.reason)
        wait = POLL * 2**state.failures if state.failures else 0.0
        return self._write_state(self._remove_orphans(state), phase="free", wait=wait)

    def _remove_orphans(self, state: SlotState) -> SlotState:
        """Remove registrations of runners that never ran or were killed.

        Those that GitHub does not remove yet stay in `orphans` for the next time.
        """
        remaining = []
        for orphan in state.orphans:
            try:
                if self.registrar.remove_runner(orphan) == "busy":
                    remaining.append(orphan)
            except InfrastructureError as failure:
                log.warning("slot %d: runner %d: %s", self.slot.index, orphan, failure)
                remaining.append(orphan)
        return replace(state, orphans=tuple(remaining))

    # Quarantine ----------------------------------------------------------------------------------------------------

    def _quarantine(self, state: SlotState, reason: str) -> float:
        self.examined_at = self.monotonic()
        return self._write_state(state, phase="quarantined", reason=reason, wait=POLL)

    def _step_quarantined(self, state: SlotState) -> float:
        """Examine the slot again after `quarantine_minutes`, or at once when the operator asks."""
        due = self.monotonic() - self.examined_at > 60 * self.config.runner.quarantine_minutes
        if not (self.state_file.take_resume_request() or due):
            return POLL
        self.host.stop_runner(self.slot)
        if reason := self._find_unfitness():
            return self._quarantine(self._remove_orphans(state), reason)
        return self._write_state(self._remove_orphans(state), phase="free", reason="", failures=0)


def _describe_leftovers(leftovers: tuple[str, ...]) -> str:
    return "left over: " + "; ".join(leftovers)
