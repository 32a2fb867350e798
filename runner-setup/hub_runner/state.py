"""What is known about a slot, on disk: written before each step, so that a supervisor killed at any point can go on."""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal

from ci.errors import HubTestsError, InfrastructureError
from ci.records import STRICT, read_json, to_json

if TYPE_CHECKING:
    from pathlib import Path

Phase = Literal["free", "minting", "starting", "running", "stopping", "proving", "quarantined"]


@dataclass(frozen=True)
class SlotState:
    """One slot. `reason`: why it is quarantined or waiting, in one line. `failures`: runners in a row that did not run.

    `orphans` are registrations at GitHub that could not be removed yet. Times are ISO 8601, for people only.
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


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """All of `text` or what was there before: temporary file beside it, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Book:
    """A slot's page: its state, and what the operator wants (drained, resume), each a file of its own.

    The operator's files are apart so that `drain` never races the supervisor's writes.
    """

    def __init__(self, directory: Path, slot: int) -> None:
        self.page = directory / f"slot-{slot}.json"
        self.drained_file = directory / f"slot-{slot}.drained"
        self.resume_file = directory / f"slot-{slot}.resume"

    def read(self) -> SlotState:
        """The state; where the page is unreadable, a running job is adopted and anything else is cleaned up."""
        try:
            return read_json(SlotState, self.page.read_bytes(), what=str(self.page))
        except FileNotFoundError:
            return SlotState()
        except (OSError, HubTestsError) as broken:
            return SlotState(phase="starting", reason=f"the state was unreadable: {broken}")

    def write(self, state: SlotState) -> SlotState:
        """Write the state with its time; returns what was written."""
        stamped = replace(state, since=datetime.now(UTC).isoformat(timespec="seconds"))
        write_atomically(self.page, to_json(stamped))
        return stamped

    @property
    def drained(self) -> bool:
        """Is the slot to be left empty?"""
        return self.drained_file.exists()

    def drain(self, reason: str) -> None:
        """Leave the slot empty once its job has ended."""
        write_atomically(self.drained_file, reason + "\n")

    def resume(self) -> None:
        """Use the slot again; a quarantined one is examined at once."""
        self.drained_file.unlink(missing_ok=True)
        write_atomically(self.resume_file, "\n")

    def take_resume(self) -> bool:
        """Was it asked to look again? True once for each time."""
        with contextlib.suppress(FileNotFoundError):
            self.resume_file.unlink()
            return True
        return False


def lock(path: Path, *, what: str, shared: bool = False, wait: bool = False) -> IO[str]:
    """A lock that the kernel gives back when its holder dies. Raises InfrastructureError when it is taken."""
    file = path.open("a+")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.seek(0)
        holder = file.read(100).strip()
        file.close()
        raise InfrastructureError(f"{what} is taken by {holder or 'another process'} ({path})") from None
    if not shared:
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
    return file
