"""The state of a slot on disk. It is written before each step, so that a supervisor killed at any point can go on."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ci.errors import HubTestsError
from ci.records import STRICT, read_json, to_json
from ci.units import format_now
from hub_runner.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

Phase = Literal["free", "registering", "starting", "running", "stopping", "verifying_clean", "quarantined"]


@dataclass(frozen=True)
class SlotState:
    """The state of one slot.

    `reason`: why the slot is in quarantine or waits, in one line. `failures`: runners in a row that did not run a job.
    `orphans`: ids of registrations at GitHub that could not be removed yet. Times are ISO 8601, for people only.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    phase: Phase = "free"
    since: str = ""
    reason: str = ""
    runner_name: str = ""
    runner_id: int | None = None
    orphans: tuple[int, ...] = ()
    jobs: int = 0
    failures: int = 0


class SlotStateFile:
    """The state file of one slot, and two files beside it with the operator's wishes: drained, resume.

    The wishes have files of their own, so that `drain` never races with the supervisor's writes.
    """

    def __init__(self, directory: Path, slot: int) -> None:
        self.path = directory / f"slot-{slot}.json"
        self.drained_file = directory / f"slot-{slot}.drained"
        self.resume_file = directory / f"slot-{slot}.resume"

    def read(self) -> SlotState:
        """Return the state; "free" where there is no file, "starting" where it is unreadable.

        From "starting" the supervisor takes over a job that runs, and cleans up otherwise.
        """
        try:
            return read_json(SlotState, self.path.read_bytes(), what=str(self.path))
        except FileNotFoundError:
            return SlotState()
        except (OSError, HubTestsError) as unreadable:
            return SlotState(phase="starting", reason=f"the state file was unreadable: {unreadable}")

    def write(self, state: SlotState) -> SlotState:
        """Write the state with the present time; return what was written."""
        stamped = replace(state, since=format_now())
        write_atomically(self.path, to_json(stamped))
        return stamped

    @property
    def drained(self) -> bool:
        """Whether the operator wants the slot empty."""
        return self.drained_file.exists()

    def drain(self, reason: str) -> None:
        """Ask that the slot stays empty once its job has ended."""
        write_atomically(self.drained_file, reason + "\n")

    def resume(self) -> None:
        """Ask that the slot takes jobs again; a slot in quarantine is examined at once."""
        self.drained_file.unlink(missing_ok=True)
        write_atomically(self.resume_file, "\n")

    def take_resume_request(self) -> bool:
        """Return whether `resume` was called since the last time, and forget it."""
        with contextlib.suppress(FileNotFoundError):
            self.resume_file.unlink()
            return True
        return False
