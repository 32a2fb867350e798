"""Starts, stops and examines slots through systemd. Every command has a time limit."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, TypeVar

from ci.doctor import Check, Diagnosis
from ci.doctor.probes import run_command
from ci.errors import HubTestsError
from ci.records import read_json
from hub_runner.files import acquire_lock, write_atomically
from hub_runner.interfaces import HostError, JitRunner, UnitStatus
from hub_runner.render import mount_unit_name
from hub_runner.slot_checks import is_mounted

if TYPE_CHECKING:
    from hub_runner.config import Slot
    from hub_runner.layout import Layout

T = TypeVar("T")

EXAMINE_TIMEOUT = 400.0
STOP_TIMEOUT = 600.0
"""Seconds; more than the unit's own TimeoutStopSec and the deletion of its disk together."""

ENDED = ("inactive", "failed")


class SystemdHost:
    """This machine: units through systemctl, examinations in processes of their own."""

    def __init__(self, layout: Layout, *, systemctl: str = "systemctl") -> None:
        self.layout, self.systemctl = layout, systemctl

    def diagnose(self, slot: Slot) -> Diagnosis:
        """Run the doctor on the slot; if it hangs or dies, the slot is not fit."""
        try:
            return self._run_verb(Diagnosis, "doctor", "--slot", str(slot.index), "--json")
        except HostError as failure:
            return Diagnosis(False, (Check("doctor", "fail", str(failure)),))

    def find_leftovers(self, slot: Slot) -> tuple[str, ...]:
        """Find what the last job left; a search that fails counts as something left."""
        try:
            return tuple(self._run_verb(list[str], "leftovers", "--slot", str(slot.index)))
        except HostError as failure:
            return (str(failure),)

    def read_unit(self, slot: Slot) -> UnitStatus:
        """Read the unit's status; a unit that starts or stops counts as active."""
        names = ("ActiveState", "Result", "ExecMainStatus")
        text = self._systemctl("show", slot.unit, "--property=" + ",".join(names))
        properties = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        try:
            return UnitStatus(
                properties["ActiveState"] not in ENDED, properties["Result"], int(properties["ExecMainStatus"])
            )
        except (KeyError, ValueError):
            raise HostError(f"systemctl show {slot.unit} answered {text[:200]!r}") from None

    def start_runner(self, slot: Slot, runner: JitRunner) -> None:
        """Make a new disk and start the unit; systemd copies the runner's configuration as a credential."""
        credential = self.layout.jit_config(slot.index)
        write_atomically(credential, runner.config, mode=0o400)
        try:
            self._systemctl("reset-failed", slot.unit, checked=False)
            self._systemctl("start", f"hub-runner-disk@{slot.index}.service", timeout=STOP_TIMEOUT)
            # The janitor holds this lock while it prunes the store, and reads the slots' states after it has the lock.
            with acquire_lock(self.layout.run / "store.lock", what="the store", shared=True, wait=True):
                self._systemctl("start", slot.unit, timeout=STOP_TIMEOUT)
        finally:
            credential.unlink(missing_ok=True)

    def stop_runner(self, slot: Slot) -> None:
        """Stop the unit with all its processes, keep the logs, delete the disk."""
        self.layout.jit_config(slot.index).unlink(missing_ok=True)
        self._systemctl("stop", slot.unit, timeout=STOP_TIMEOUT)
        if is_mounted(self.layout.disk(slot.index)):
            self._systemctl("start", f"hub-runner-logs@{slot.index}.service", timeout=STOP_TIMEOUT, checked=False)
            self._systemctl("stop", mount_unit_name(slot), timeout=STOP_TIMEOUT)
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

    def _run_verb(self, kind: type[T], *verb: str) -> T:
        command = [sys.executable, "-I", "-m", "hub_runner", "--root", str(self.layout.root), *verb]
        try:
            answer = run_command(command, timeout=EXAMINE_TIMEOUT)
        except (OSError, subprocess.TimeoutExpired):
            raise HostError(
                f"hub-runner {verb[0]} did not answer in {EXAMINE_TIMEOUT:g} s: the GPU driver hangs"
            ) from None
        with contextlib.suppress(HubTestsError):
            return read_json(kind, answer.stdout, what=f"hub-runner {verb[0]}")
        last = (answer.stderr.strip().splitlines() or ["no output"])[-1]
        raise HostError(f"hub-runner {verb[0]} failed with status {answer.returncode}: {last[:200]}")
