"""NVML is read from tapes of a real one."""

from __future__ import annotations

import os

import pytest

from ci.nvml import RowRemap, read_nvml
from tests.ci.doctor.scenes import NOT_LOADED, RM_MISMATCH, UNKNOWN, cards, tape
from tests.ci.doctor.tape import Player


def test_a_healthy_card() -> None:
    seen = read_nvml(Player(tape()))
    assert (seen.driver, seen.cuda, seen.problem) == ("580.159.04", "13.0", "")
    (gpu,) = seen.gpus
    assert (gpu.index, gpu.minor, gpu.name, gpu.pci) == (0, 0, "NVIDIA H100 80GB HBM3", "00000000:00:06.0")
    assert (gpu.memory_total, gpu.memory_used, gpu.processes) == (85520809984, 0, ())
    assert (gpu.ecc_on, gpu.ecc_volatile, gpu.remap) == (True, 0, RowRemap(3, 0, False, False))
    assert gpu.retirement_pending is None
    assert dict(gpu.errors) == {}


def test_a_busy_card_names_what_holds_its_memory() -> None:
    answers = tape("busy")
    answers["nvmlDeviceGetComputeRunningProcesses(gpu0)"][0]["pid"] = os.getpid()
    (process,) = read_nvml(Player(answers)).gpus[0].processes
    assert (process.pid, process.memory) == (os.getpid(), 4934598656)
    assert process.name


@pytest.mark.parametrize(
    ("code", "text"), [(12, "no NVIDIA driver"), (NOT_LOADED, "modprobe"), (RM_MISMATCH, "reboot")]
)
def test_why_nvml_does_not_start_is_told(code: int, text: str) -> None:
    assert text in read_nvml(Player({"nvmlInit()": {"error": code}})).problem


def test_an_unknown_error_is_told_too() -> None:
    assert "Unknown Error" in read_nvml(Player({"nvmlInit()": {"error": UNKNOWN}})).problem


def test_nvml_that_stops_answering_midway_is_a_problem_and_no_traceback() -> None:
    assert "stopped answering" in read_nvml(Player(tape() | {"nvmlDeviceGetCount()": {"error": UNKNOWN}})).problem


def test_a_lost_card_does_not_hide_the_others() -> None:
    seen = read_nvml(Player(cards(3) | {"nvmlDeviceGetHandleByIndex(1)": {"error": 15}}))
    assert ["handle" in gpu.errors for gpu in seen.gpus] == [False, True, False]


def test_a_card_this_user_may_not_open_is_not_readable_either() -> None:
    seen = read_nvml(Player(tape() | {"nvmlDeviceGetHandleByIndex(0)": {"error": 4}}))
    assert seen.gpus[0].errors["handle"]


FABRIC = "nvmlDeviceGetGpuFabricInfoV(gpu0, c_nvmlGpuFabricInfo_v2_t)"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"state": 3, "status": 0}, "completed"),
        ({"state": 3, "status": 999}, "completed, status 999"),
        ({"state": 2, "status": 0}, "in progress"),
        ({"state": 1, "status": 0}, "not started"),
        ({"state": 0, "status": 0}, None),
        ({"error": 3}, None),
        ({"error": 13}, None),  # a driver that has no such function
    ],
)
def test_how_far_the_fabric_manager_is(answer: dict[str, int], told: str | None) -> None:
    (gpu,) = read_nvml(Player(tape() | {FABRIC: answer})).gpus
    assert (gpu.fabric, dict(gpu.errors)) == (told, {})


def test_an_old_nvidia_ml_py_does_not_know_the_fabric() -> None:
    class Old(Player):
        def __getattr__(self, name: str) -> object:
            if name.startswith("c_nvmlGpuFabric"):
                raise AttributeError(name)
            return super().__getattr__(name)

    assert read_nvml(Old(tape())).gpus[0].fabric is None
