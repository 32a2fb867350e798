"""This machine through systemd: the supervisor's hands. Every command has a time limit."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, TypeVar

from ci.doctor import Check, Diagnosis
from ci.doctor.probes import run_command
from ci.errors import HubTestsError
from ci.records import read_json
from hub_runner.examine import is_mounted
from hub_runner.outside import HostError, Jit, Unit
from hub_runner.render import mount_unit
from hub_runner.state import lock, write_atomically

if TYPE_CHECKING:
    from hub_runner.config import Slot
    from hub_runner.layout import Layout

T = TypeVar("T")

EXAMINE_TIMEOUT = 400.0
STOP_TIMEOUT = 600.0
"""Seconds; above the unit's own TimeoutStopSec and what wiping its disk takes."""

ENDED = ("inactive", "failed")


class SystemdHost:
    """Units by systemctl; examinations in processes of their own."""

    def __init__(self, layout: Layout, *, systemctl: str = "systemctl") -> None:
        self.layout, self.systemctl = layout, systemctl

    def diagnose(self, slot: Slot) -> Diagnosis:
        """The doctor's word on the slot; a doctor that hangs or dies says that the slot is not fit."""
        try:
            return self._examined(Diagnosis, "doctor", "--slot", str(slot.index), "--json")
        except HostError as failure:
            return Diagnosis(False, (Check("doctor", "fail", str(failure)),))

    def leftovers(self, slot: Slot) -> tuple[str, ...]:
        """What is left of the last job; a question without an answer is something left."""
        try:
            return tuple(self._examined(list[str], "leftovers", "--slot", str(slot.index)))
        except HostError as failure:
            return (str(failure),)

    def unit(self, slot: Slot) -> Unit:
        """The unit's state: anything but ended counts as active, also while it starts or stops."""
        names = ("ActiveState", "Result", "ExecMainStatus")
        text = self._systemctl("show", slot.unit, "--property=" + ",".join(names))
        said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        try:
            return Unit(said["ActiveState"] not in ENDED, said["Result"], int(said["ExecMainStatus"]))
        except (KeyError, ValueError):
            raise HostError(f"systemctl show {slot.unit} answered {text[:200]!r}") from None

    def start(self, slot: Slot, jit: Jit) -> None:
        """A new disk, then the unit, with the runner's configuration as a credential that systemd copies."""
        place = self.layout.jit(slot.index)
        write_atomically(place, jit.config, mode=0o400)
        try:
            self._systemctl("reset-failed", slot.unit, checked=False)
            self._systemctl("start", f"hub-runner-disk@{slot.index}.service", timeout=STOP_TIMEOUT)
            # The janitor holds this lock while it prunes the store; it reads the slot's page only after.
            with lock(self.layout.run / "store.lock", what="the store", shared=True, wait=True):
                self._systemctl("start", slot.unit, timeout=STOP_TIMEOUT)
        finally:
            place.unlink(missing_ok=True)

    def stop(self, slot: Slot) -> None:
        """Stop the unit, wait until systemd has killed everything in it, keep the logs, throw the disk away."""
        self.layout.jit(slot.index).unlink(missing_ok=True)
        self._systemctl("stop", slot.unit, timeout=STOP_TIMEOUT)
        if is_mounted(self.layout.disk(slot.index)):
            self._systemctl("start", f"hub-runner-logs@{slot.index}.service", timeout=STOP_TIMEOUT, checked=False)
            self._systemctl("stop", mount_unit(slot), timeout=STOP_TIMEOUT)
        self.layout.image(slot.index).unlink(missing_ok=True)

    def _systemctl(self, *arguments: str, timeout: float = 60.0, checked: bool = True) -> str:
        command = [self.systemctl, "--no-ask-password", "--no-pager", *arguments]
        try:
            answer = run_command(command, timeout=timeout)
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise HostError(f"{' '.join(command)}: {failure}") from None
        if checked and answer.returncode:
            raise HostError(f"systemctl {' '.join(arguments)}: {answer.stderr.strip()[:300]}")
        return answer.stdout

    def _examined(self, kind: type[T], *verb: str) -> T:
        command = [sys.executable, "-I", "-m", "hub_runner", "--root", str(self.layout.root), *verb]
        try:
            answer = run_command(command, timeout=EXAMINE_TIMEOUT)
        except (OSError, subprocess.TimeoutExpired):
            raise HostError(f"hub-runner {verb[0]} did not answer in {EXAMINE_TIMEOUT:g} s: the driver hangs") from None
        with contextlib.suppress(HubTestsError):
            return read_json(kind, answer.stdout, what=f"hub-runner {verb[0]}")
        last = (answer.stderr.strip().splitlines() or ["no output"])[-1]
        raise HostError(f"hub-runner {verb[0]} failed with status {answer.returncode}: {last[:200]}")
