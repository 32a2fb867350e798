"""The life of one slot: examine, mint, run one job, stop, prove that nothing is left, examine again.

Each step writes what it is about to do before it does it. Whoever reads a page that says `minting` or `starting` at the
beginning of a step knows that a supervisor died in between, and cleans up; a page that says `running` is adopted.
All waiting is in monotonic time: a clock that jumps changes nothing here.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from hub_runner.outside import HostError, MintRefusedError, MintUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hub_runner.config import Config, Slot
    from hub_runner.outside import Host, Mint, Unit
    from hub_runner.state import Book, Phase, SlotState

log = logging.getLogger("hub-runner")

POLL = 5.0
"""Seconds between two looks at a running unit, or at memory that the driver has not given back yet."""

PATIENCE = 12
"""Looks for leftovers before a slot is quarantined: a minute."""

SHORTEST_LIFE = 10.0
"""Seconds. A runner that ends sooner did not run a job: it could not connect, or its configuration was refused."""

JOBS_DOING = frozenset({"success", "timeout", "signal", "core-dump", "oom-kill"})
"""Results of a unit that a job can bring about: processes that would not end, or took all the memory. No job may put a
slot out of order by them."""

MOST_FAILURES = 3
DEPRECATED = 7
"""Exit status of a runner whose version GitHub no longer accepts."""

LONGEST_BACKOFF = 600.0


class Keeper:
    """Keeps one slot. `advance` does one step and says how many seconds to wait before the next."""

    def __init__(
        self, slot: Slot, config: Config, *, host: Host, mint: Mint, book: Book, monotonic: Callable[[], float]
    ) -> None:
        self.slot, self.config = slot, config
        self.host, self.mint, self.book, self.monotonic = host, mint, book, monotonic
        self.started = monotonic()
        self.asked = monotonic()
        self.looks = 0
        self.retries = 0

    def advance(self) -> float:
        """One step from the phase that the page says. Raises HostError when systemd cannot be asked."""
        state = self.book.read()
        steps: dict[Phase, Callable[[SlotState], float]] = {
            "free": self._free,
            "minting": self._recover_minting,
            "starting": self._recover_starting,
            "running": self._running,
            "stopping": self._stopping,
            "proving": self._proving,
            "quarantined": self._quarantined,
        }
        return steps[state.phase](state)

    def _to(self, state: SlotState, *, wait: float = 0.0, **changes: object) -> float:
        written = self.book.write(replace(state, **changes))  # type: ignore[arg-type]
        log.info("slot %d: %s %s%s", self.slot.index, written.phase, written.runner_name, told(written.reason))
        return wait

    def _backoff(self) -> float:
        self.retries += 1
        return min(LONGEST_BACKOFF, POLL * float(2**self.retries))

    # From free to running ------------------------------------------------------------------------------------------

    def _free(self, state: SlotState) -> float:
        if self.host.unit(self.slot).active:  # its page was lost: let the job end
            return self._adopt(state)
        if self.book.drained:
            return POLL
        self.book.take_resume()
        state = self._remove_orphans(state)
        if reason := self._unfit():
            return self._to(state, phase="quarantined", reason=reason, wait=self._quarantine())
        return self._offer(state)

    def _unfit(self) -> str:
        if left := self.host.leftovers(self.slot):
            return "left over: " + "; ".join(left)
        diagnosis = self.host.diagnose(self.slot)
        return "" if diagnosis.fit else "; ".join(diagnosis.reasons) or "the doctor gave no reason"

    def _offer(self, state: SlotState) -> float:
        name = f"{self.config.host.name}-{self.slot.index}-{secrets.token_hex(4)}"
        self._to(state, phase="minting", runner_name=name, runner_id=None, reason="")
        state = self.book.read()
        try:
            jit = self.mint.jit(self.slot.index, name)
        except MintRefusedError as refusal:
            return self._to(state, phase="free", runner_name="", reason=str(refusal), wait=self._backoff())
        except MintUnavailableError as failure:
            return self._to(state, reason=str(failure), wait=self._backoff())
        self.retries = 0
        self._to(state, phase="starting", runner_id=jit.runner_id, reason="")
        try:
            self.host.start(self.slot, jit)
        except HostError as failure:
            return self._to(self.book.read(), phase="stopping", reason=str(failure))
        self.started = self.asked = self.monotonic()
        return self._to(self.book.read(), phase="running", wait=POLL)

    def _recover_minting(self, state: SlotState) -> float:
        """A runner may have been registered under this name, and nobody has its configuration."""
        try:
            runner_id = self.mint.find(state.runner_name)
        except InfrastructureError as failure:
            return self._to(state, reason=str(failure), wait=self._backoff())
        self.retries = 0
        return self._to(state, phase="stopping", runner_id=runner_id)

    def _recover_starting(self, state: SlotState) -> float:
        return self._adopt(state) if self.host.unit(self.slot).active else self._to(state, phase="stopping")

    def _adopt(self, state: SlotState) -> float:
        self.started = self.asked = self.monotonic()
        return self._to(state, phase="running", reason="", wait=POLL)

    # From running to free ------------------------------------------------------------------------------------------

    def _running(self, state: SlotState) -> float:
        unit = self.host.unit(self.slot)
        if not unit.active:
            return self._ended(state, unit)
        idle = self.monotonic() - self.asked > 60 * self.config.runner.max_idle_minutes
        if (self.book.drained or idle) and state.runner_id is not None:
            return self._withdraw(state)
        return POLL

    def _withdraw(self, state: SlotState) -> float:
        """Take an idle runner out. GitHub refuses to remove one that has a job, so no job is ever cut off."""
        self.asked = self.monotonic()
        try:
            answer = self.mint.remove(state.runner_id or 0)
        except InfrastructureError as failure:
            log.warning("slot %d: %s", self.slot.index, failure)
            return self._backoff()
        self.retries = 0
        return POLL if answer == "busy" else self._to(state, phase="stopping", runner_id=None)

    def _ended(self, state: SlotState, unit: Unit) -> float:
        lived = self.monotonic() - self.started
        failed = unit.result not in JOBS_DOING or lived < SHORTEST_LIFE
        reason = f"{self.slot.unit} ended after {lived:.0f} s: {unit.result}, status {unit.status}" if failed else ""
        jobs, failures = (state.jobs, state.failures + 1) if failed else (state.jobs + 1, 0)
        if unit.status == DEPRECATED:
            failures, reason = MOST_FAILURES, "GitHub no longer accepts this runner version: hub-runner update"
        return self._to(state, phase="stopping", reason=reason, jobs=jobs, failures=failures)

    def _stopping(self, state: SlotState) -> float:
        self.host.stop(self.slot)
        orphans = (*state.orphans, *((state.runner_id,) if state.runner_id is not None else ()))
        self.looks = 0
        return self._to(state, phase="proving", runner_id=None, runner_name="", orphans=orphans)

    def _proving(self, state: SlotState) -> float:
        left = self.host.leftovers(self.slot)
        self.looks += 1
        if left and self.looks < PATIENCE:
            return POLL
        if left:
            reason = "left over: " + "; ".join(left)
            return self._to(state, phase="quarantined", reason=reason, wait=self._quarantine())
        if state.failures >= MOST_FAILURES:
            return self._to(state, phase="quarantined", failures=0, wait=self._quarantine())
        wait = POLL * 2**state.failures if state.failures else 0.0
        return self._to(self._remove_orphans(state), phase="free", wait=wait)

    def _remove_orphans(self, state: SlotState) -> SlotState:
        """A single-use runner removes itself; one that never ran, or was killed, is removed by us, now or later."""
        kept = []
        for orphan in state.orphans:
            try:
                if self.mint.remove(orphan) == "busy":
                    kept.append(orphan)
            except InfrastructureError as failure:
                log.warning("slot %d: runner %d: %s", self.slot.index, orphan, failure)
                kept.append(orphan)
        return replace(state, orphans=tuple(kept))

    # Quarantine ----------------------------------------------------------------------------------------------------

    def _quarantine(self) -> float:
        self.asked = self.monotonic()
        return POLL

    def _quarantined(self, state: SlotState) -> float:
        """Look again after a while, or when the operator says so; what is broken stays broken until it is mended."""
        due = self.monotonic() - self.asked > 60 * self.config.runner.quarantine_minutes
        if not (self.book.take_resume() or due):
            return POLL
        self.host.stop(self.slot)
        if reason := self._unfit():
            return self._to(self._remove_orphans(state), reason=reason, wait=self._quarantine())
        return self._to(self._remove_orphans(state), phase="free", reason="", failures=0)


def told(reason: str) -> str:
    """A reason as the end of a log line."""
    return f": {reason}" if reason else ""
