"""The table names what is wrong and what to do."""

from __future__ import annotations

import io

from rich.console import Console

from ci.doctor import DoctorRequest, diagnose
from ci.doctor.records import Nvml, ProbeAnswer
from ci.doctor.table import render_diagnosis
from tests.ci.doctor.scenes import (
    state,
)


def shown(diagnosis: object) -> str:
    console = Console(file=io.StringIO(), width=160)
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
