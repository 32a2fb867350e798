"""The diagnosis as a whole, on this machine and on recorded ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from ci.doctor import DoctorRequest, check_host, run_doctor
from ci.doctor.records import KernelLog, ProbeAnswer
from ci.records import to_json
from tests.ci.doctor.scenes import (
    by_name,
    state,
)

SLOT = DoctorRequest(only=(1, 2), strict=True)


def test_a_healthy_host_is_fit_in_every_check() -> None:
    assert {check.status for check in check_host(state(), replace(SLOT, only=()))} == {"ok"}


@pytest.mark.parametrize("name", ["xid", "store"])
def test_strict_takes_no_unanswered_question_for_a_yes(name: str) -> None:
    blind = state(kernel=KernelLog(problem="run as root"), store=ProbeAnswer(None, "only root can look"))
    assert by_name(check_host(blind, replace(SLOT, strict=False)))[name].status == "skip"
    strict = by_name(check_host(blind, SLOT))[name]
    assert strict.status == "fail"
    assert strict.value.startswith("not checked")


def test_it_answers_on_this_machine_whatever_it_is() -> None:
    diagnosis = run_doctor(DoctorRequest(offline=True, paths=("/",), min_free=1, min_free_inodes=1), os.environ)
    assert diagnosis.exit_code in (0, 3)
    assert json.loads(to_json(diagnosis))["host"]["host"]
    assert {"gpus", "disk /", "clock", "hub"} <= {check.name for check in diagnosis.checks}


def test_the_doctor_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pynvml", "pydantic")
    script = f"import ci.doctor, ci.doctor.table, sys; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
