"""The table names what is wrong and what to do."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from ci.doctor import DoctorRequest, diagnose
from ci.doctor.records import ProbeAnswer
from ci.doctor.table import render_diagnosis
from ci.nvml import Nvml
from tests.ci.doctor.scenes import SANDBOX, TOOLS, state


def shown(diagnosis: object, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render_diagnosis(diagnosis))  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_machine_without_a_gpu_is_told_what_it_can_do() -> None:
    bare = diagnose(state(nvml=Nvml(problem="no NVIDIA driver on this host"), pci=()), DoctorRequest())
    assert bare.exit_code == 3
    assert "run the suite with --device cpu" in shown(bare)


def test_the_table_names_what_is_wrong_and_what_to_do() -> None:
    sick = diagnose(state(hub=ProbeAnswer(False, "[refused]")), DoctorRequest())
    text = shown(sick)
    assert "[refused]" in text
    assert "not fit to run GPU tests: hub." in text
    assert "HF_HUB_OFFLINE=1" in text
    assert sick.reasons == ("hub: [refused]",)


def test_a_healthy_host_is_fit() -> None:
    fit = diagnose(state(), DoctorRequest())
    assert (fit.fit, fit.exit_code, fit.reasons) == (True, 0, ())
    assert "fit to run GPU tests." in shown(fit)


def test_the_table_stays_readable_in_80_columns() -> None:
    refused = ProbeAnswer(False, "bubblewrap cannot make a sandbox here: bwrap: No permissions to create new namespace")
    sandbox = replace(SANDBOX, start=refused, apparmor_restricts=1, covered=("/proc/acpi", "/proc/kcore"))
    sick = diagnose(state(sandbox=sandbox, tools=replace(TOOLS, git="", installer="pip 25.0")), DoctorRequest())
    text = shown(sick, width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(f" {check.name} " in text for check in sick.checks)
    assert "apparmor: apt install apparmor-profiles" in text
