"""The doctor as a whole, on this machine: it answers, it judges, it is light."""

from __future__ import annotations

import io
import json
import subprocess
import sys

from rich.console import Console

from ci.doctor import DoctorRequest, diagnose, host_identity, run_doctor
from ci.doctor.records import Answer, Nvml
from ci.doctor.table import render
from ci.records import to_json
from tests.ci.doctor.scenes import nvml, state


def shown(diagnosis: object) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(render(diagnosis))  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_it_answers_on_this_machine_whatever_it_is() -> None:
    diagnosis = run_doctor(DoctorRequest(offline=True, paths=("/",), min_free=1, min_free_inodes=1))
    assert diagnosis.exit_code in (0, 3)
    assert json.loads(to_json(diagnosis))["host"]["host"]
    assert {"gpus", "disk /", "clock", "hub"} <= {check.name for check in diagnosis.checks}


def test_a_machine_without_a_gpu_is_told_what_it_can_do() -> None:
    bare = diagnose(state(nvml=Nvml(problem="no NVIDIA driver on this host"), pci=()), DoctorRequest())
    assert bare.exit_code == 3
    assert "run the suite with --device cpu" in shown(bare)


def test_the_table_names_what_is_wrong_and_what_to_do() -> None:
    sick = diagnose(state(hub=Answer(False, "[refused]")), DoctorRequest())
    text = shown(sick)
    assert "[refused]" in text
    assert "not fit to run GPU tests: hub." in text
    assert "HF_HUB_OFFLINE=1" in text
    assert sick.reasons == ("hub: [refused]",)


def test_a_healthy_host_is_fit() -> None:
    fit = diagnose(state(), DoctorRequest())
    assert (fit.fit, fit.exit_code, fit.reasons) == (True, 0, ())
    assert "fit to run GPU tests." in shown(fit)


def test_the_identity_names_host_driver_and_cards() -> None:
    identity = host_identity(nvml())
    assert identity["driver"] == "580.159.04"
    assert identity["gpu3"] == "NVIDIA H100 80GB HBM3 GPU-3"
    assert all(isinstance(value, str) and value for value in identity.values())


def test_the_doctor_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pynvml", "pydantic")
    script = f"import ci.doctor, ci.doctor.table, sys; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
