"""Tries a sandbox as a job on a slot would make it: in a unit with the slot's settings, but without a runner.

What the supervisor may do says nothing about the slot: it is another user, with other system calls and other mounts.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from ci.doctor.probes import run_command
from ci.doctor.records import SandboxState
from ci.doctor.sandbox_probes import read_sandbox
from ci.errors import HubTestsError
from ci.records import read_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hub_runner.config import Slot
    from hub_runner.layout import Layout

SECONDS = 90
OF_THE_RUNNER = frozenset(
    ("Type", "ExecStart", "LoadCredential", "Restart", "KillMode", "SendSIGKILL", "TimeoutStopSec", "RuntimeMaxSec")
)
"""Settings about the runner's process, which is not started here."""


def probe_unit_name(slot: Slot) -> str:
    """Return the name of the unit that tries a sandbox for a slot."""
    return f"hub-runner-slot-{slot.index}-probe.service"


def make_probe_unit(slot: Slot, slot_unit: str, layout: Layout) -> str:
    """Write the unit that tries a sandbox, from the text of the slot's own unit."""
    python = layout.program / "venv/bin/python"
    return "\n".join(
        [
            f"# Tries a sandbox with the settings of {slot.unit}, before a runner is offered on slot {slot.index}.",
            "[Unit]",
            f"Description=Try a sandbox on slot {slot.index}",
            "Wants=hub-runner-apparmor.service",
            "After=hub-runner-apparmor.service",
            "",
            "[Service]",
            "Type=oneshot",
            f"ExecStart={python} -I -m hub_runner.slot_sandbox",
            f"StandardOutput=truncate:{_answer_path(slot, layout)}",
            f"TimeoutStartSec={SECONDS}",
            *_list_settings(slot, slot_unit, layout),
            "",
        ]
    )


def probe_slot_sandbox(slot: Slot, layout: Layout, *, systemctl: str = "systemctl") -> SandboxState | str:
    """Return what a sandbox needs and finds on a slot, or in one line why it could not be tried."""
    answer, unit = _answer_path(slot, layout), probe_unit_name(slot)
    command = [systemctl, "--no-ask-password", "--no-pager", "start", unit]
    try:
        answer.unlink(missing_ok=True)
        done = run_command(command, timeout=SECONDS + 30)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            return f"cannot be tried: {last[:200]}"
        return read_json(SandboxState, answer.read_bytes(), what=unit)
    except (OSError, subprocess.TimeoutExpired, HubTestsError) as failure:
        return f"cannot be tried: {' '.join(str(failure).split())[:200]}"


def _answer_path(slot: Slot, layout: Layout) -> Path:
    return layout.run / f"probe-{slot.index}.json"


def _list_settings(slot: Slot, unit: str, layout: Layout) -> Iterator[str]:
    """List the settings of the slot's service, without those of the runner and of the disk, which each job gets."""
    for line in unit.partition("[Service]")[2].splitlines():
        name, is_setting, value = line.partition("=")
        if not is_setting or line.startswith("#") or name in OF_THE_RUNNER:
            continue
        if name == "Environment" or str(layout.disk(slot.index)) not in value:
            yield line


if __name__ == "__main__":
    print(to_json(read_sandbox()))
