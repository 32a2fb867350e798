"""The interfaces that the state machine of a slot uses: GitHub through the registrar, and this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from ci.errors import InfrastructureError

if TYPE_CHECKING:
    from ci.doctor import Diagnosis
    from hub_runner.config import Slot


class RegistrarUnavailableError(InfrastructureError):
    """GitHub or the registrar did not answer. The request may or may not have had its effect."""


class RegistrarRefusedError(InfrastructureError):
    """GitHub or the registrar refused. Nothing was done, and the same request would be refused again."""


class HostError(InfrastructureError):
    """systemd did not do what was asked of it."""


@dataclass(frozen=True)
class JitRunner:
    """A registered just-in-time runner: its id at GitHub, and `config`, its credential."""

    runner_id: int
    config: str = field(repr=False)


@dataclass(frozen=True)
class UnitStatus:
    """Status of the slot's unit: whether it runs, systemd's Result, and the exit status of its main process."""

    active: bool
    result: str = "success"
    status: int = 0


class Registrar(Protocol):
    """GitHub's runners. Each call may raise RegistrarUnavailableError or RegistrarRefusedError."""

    def register(self, slot: int, name: str) -> JitRunner:
        """Register a single-use runner with the slot's labels."""

    def find_runner(self, name: str) -> int | None:
        """Return the id of the runner with this name; None when there is none."""

    def remove_runner(self, runner_id: int) -> Literal["removed", "busy"]:
        """Remove a registration; "removed" also when it is gone already."""


class Host(Protocol):
    """This machine. Each call may raise HostError."""

    def diagnose(self, slot: Slot) -> Diagnosis:
        """Examine whether the slot can run a job."""

    def read_unit(self, slot: Slot) -> UnitStatus:
        """Read the status of the slot's unit from systemd."""

    def start_runner(self, slot: Slot, runner: JitRunner) -> None:
        """Start the runner with a new home, work directory and tmp."""

    def stop_runner(self, slot: Slot) -> None:
        """Stop the runner, if it runs, and delete its disk."""

    def find_leftovers(self, slot: Slot) -> tuple[str, ...]:
        """Find what the last job left: processes, memory on the slot's GPUs, its disk."""
