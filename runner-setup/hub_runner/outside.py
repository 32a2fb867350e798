"""What a slot's keeper asks of the world: GitHub through the minting unit, and this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from ci.errors import InfrastructureError

if TYPE_CHECKING:
    from ci.doctor import Diagnosis
    from hub_runner.config import Slot


class MintUnavailableError(InfrastructureError):
    """GitHub or the minting unit did not answer: it may or may not have done what was asked."""


class MintRefusedError(InfrastructureError):
    """GitHub said no: nothing was done, and asking again at once is no use."""


class HostError(InfrastructureError):
    """systemd did not do what it was asked to."""


@dataclass(frozen=True)
class Jit:
    """A single-use runner's registration; `config` is its credential."""

    runner_id: int
    config: str = field(repr=False)


@dataclass(frozen=True)
class Unit:
    """The slot's unit: does it run, and how did it end (systemd's Result, the main process's exit status)?"""

    active: bool
    result: str = "success"
    status: int = 0


class Mint(Protocol):
    """GitHub, through the unit that holds the key. Every call raises MintUnavailableError or MintRefusedError."""

    def jit(self, slot: int, name: str) -> Jit:
        """Register a single-use runner with the slot's labels."""

    def find(self, name: str) -> int | None:
        """The id of the runner registered under `name`."""

    def remove(self, runner_id: int) -> Literal["removed", "busy"]:
        """Take a registration back; one that is gone already is removed."""


class Host(Protocol):
    """This machine. Every call raises HostError."""

    def diagnose(self, slot: Slot) -> Diagnosis:
        """Is the slot fit for a job?"""

    def unit(self, slot: Slot) -> Unit:
        """What does systemd say?"""

    def start(self, slot: Slot, jit: Jit) -> None:
        """Start the runner in a fresh home, work directory and tmp."""

    def stop(self, slot: Slot) -> None:
        """Stop it gracefully, then not; wipe what it had. Stopping what does not run is fine."""

    def leftovers(self, slot: Slot) -> tuple[str, ...]:
        """What of the last job is still there: processes, memory on the slot's GPUs, its disk."""
