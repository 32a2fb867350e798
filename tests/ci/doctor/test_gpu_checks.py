"""Each fault of a GPU, as NVML, the kernel or a probe reports it, turns exactly its own check."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ci.doctor import DoctorRequest, check_host
from ci.doctor.records import GpuComputation
from ci.nvml import Nvml
from tests.ci.doctor.scenes import LOST, NOT_SUPPORTED, UNKNOWN, Fault, assert_own_check_fails, by_name, kernel, state

SLOT = DoctorRequest(only=(1, 2), strict=True)


XID_79 = "NVRM: Xid (PCI:0000:02:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


XID_13 = "NVRM: Xid (PCI:0000:02:00): 13, pid=4711, name=python3, Graphics SM Warp Exception on (GPC 0): Out Of Range"


PROCESS = {"pid": 999_999_999, "usedGpuMemory": 7 << 30}


USED = {"total": 80 << 30, "used": 72 << 30, "free": 8 << 30}


FAULTS: dict[str, Fault] = {
    "card gone": ({"nvmlDeviceGetHandleByIndex(1)": {"error": LOST}}, {}, "gpus", "fail", "3 of 4 (gpu1: GPU is lost)"),
    "card unseen": ({"nvmlDeviceGetCount()": 3}, {}, "gpus", "fail", "3 of 4"),
    "ERR!": ({"nvmlDeviceGetPowerUsage(gpu1)": {"error": UNKNOWN}}, {}, "values", "fail", "ERR! powerusage"),
    "bit flips": ({"nvmlDeviceGetTotalEccErrors(gpu1, 1, 0)": 2}, {}, "ecc", "fail", "gpu1 2 uncorrected"),
    "old bit flips": ({"nvmlDeviceGetTotalEccErrors(gpu1, 1, 1)": 9}, {}, "ecc", "warn", "9 uncorrected"),
    "ecc off": ({"nvmlDeviceGetEccMode(gpu1)": [0, 0]}, {}, "ecc", "warn", "ECC is off"),
    "remap pending": ({"nvmlDeviceGetRemappedRows(gpu1)": [0, 1, 1, 0]}, {}, "row remapping", "fail", "waits"),
    "remap failed": ({"nvmlDeviceGetRemappedRows(gpu1)": [0, 9, 0, 1]}, {}, "row remapping", "fail", "no spare"),
    "remapped": ({"nvmlDeviceGetRemappedRows(gpu1)": [0, 1, 0, 0]}, {}, "row remapping", "warn", "1 rows"),
    "pages pending": (
        {"nvmlDeviceGetRemappedRows(gpu1)": {"error": 3}, "nvmlDeviceGetRetiredPagesPendingStatus(gpu1)": 1},
        *({}, "row remapping", "fail", "waits"),
    ),
    "mig": ({"nvmlDeviceGetMigMode(gpu1)": [1, 1]}, {}, "mig", "fail", "MIG is on"),
    "xid of the card": ({}, {"kernel": kernel(XID_79)}, "xid", "fail", "gpu1 Xid 79 x1"),
    "xid of a program": ({}, {"kernel": kernel(XID_13, XID_13)}, "xid", "warn", "gpu1 Xid 13 x2"),
    "left over": ({"nvmlDeviceGetComputeRunningProcesses(gpu1)": [PROCESS]}, {}, "gpu processes", "fail", "999999999"),
    "leaked memory": ({"nvmlDeviceGetMemoryInfo(gpu1)": USED}, {}, "gpu memory", "fail", "by no process"),
    "wrong numbers": (
        {},
        {"driver_computation": GpuComputation({"GPU-1": "3 numbers are wrong"})},
        "cuda operation",
        "fail",
        "3 num",
    ),
    "hanging": (
        {},
        {"driver_computation": GpuComputation(problem="no answer in 60 s")},
        "cuda operation",
        "fail",
        "no answer",
    ),
    "blind CUDA": ({}, {"driver_computation": GpuComputation({})}, "cuda operation", "fail", "CUDA sees no GPU"),
    "torch wrong": (
        {},
        {"torch_computation": GpuComputation({"GPU-1": "no kernel image"})},
        "torch",
        "fail",
        "no kernel image",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_turns_its_own_check(fault: str) -> None:
    others = assert_own_check_fails(FAULTS[fault], replace(SLOT, only=()))
    assert others == {"ok"} or fault == "card gone"  # nothing is computed on a card that is gone


@pytest.mark.parametrize("gpu", [0, 3])
def test_a_slot_is_not_judged_by_another_slots_gpu(gpu: int) -> None:
    elsewhere = {f"nvmlDeviceGetTotalEccErrors(gpu{gpu}, 1, 0)": 5}
    log = kernel(XID_79.replace("0000:02", f"0000:0{gpu + 1}"))
    assert {check.status for check in check_host(state(elsewhere, kernel=log), SLOT)} == {"ok"}


def test_a_slots_missing_gpu_is_missed() -> None:
    gone = {"nvmlDeviceGetHandleByIndex(1)": {"error": LOST}}
    assert by_name(check_host(state(gone), SLOT))["gpus"].value.startswith("1 of 2")


def test_more_gpus_than_expected_is_a_fault_too() -> None:
    assert by_name(check_host(state(), DoctorRequest(gpus=2)))["gpus"].status == "fail"


def test_without_a_gpu_the_answer_says_what_to_do() -> None:
    none = replace(state(), nvml=Nvml(problem="no NVIDIA driver on this host"), pci=())
    checks = by_name(check_host(none, DoctorRequest()))
    assert checks["gpus"].status == "fail"
    assert "--device cpu" in checks["gpus"].fix
    assert "driver" not in checks


def test_a_driver_that_sees_none_of_the_cards_on_the_bus_is_not_fit() -> None:
    blind = replace(state(), nvml=Nvml(driver="580", cuda="13.0"))
    assert by_name(check_host(blind, DoctorRequest()))["gpus"].value.startswith("0 of 4")
    assert by_name(check_host(replace(blind, pci=()), DoctorRequest()))["gpus"].status == "fail"


def test_a_host_that_is_to_have_no_gpu_may_have_none() -> None:
    none = replace(state(), nvml=Nvml(problem="no NVIDIA driver on this host"), pci=())
    assert {check.status for check in check_host(none, DoctorRequest(gpus=0, strict=True))} == {"ok", "skip"}


def test_what_a_card_does_not_count_is_skipped_and_never_blamed() -> None:
    geforce = {
        f"{call}(gpu{gpu}{rest})": {"error": NOT_SUPPORTED}
        for gpu in range(4)
        for call, rest in (
            *(("nvmlDeviceGetEccMode", ""), ("nvmlDeviceGetRemappedRows", ""), ("nvmlDeviceGetMigMode", "")),
            *(("nvmlDeviceGetTotalEccErrors", ", 1, 0"), ("nvmlDeviceGetTotalEccErrors", ", 1, 1")),
        )
    }
    checks = by_name(check_host(state(geforce), SLOT))
    assert [checks[name].status for name in ("ecc", "row remapping", "mig")] == ["skip"] * 3
    assert {check.status for check in checks.values()} == {"ok", "skip"}


@pytest.mark.parametrize(("minimum", "status"), [("580.100", "ok"), ("580.159.4", "ok"), ("590", "fail")])
def test_the_driver_is_compared_as_numbers(minimum: str, status: str) -> None:
    assert by_name(check_host(state(), DoctorRequest(min_driver=minimum)))["driver"].status == status


def test_every_card_with_a_fault_is_named() -> None:
    flips = {f"nvmlDeviceGetPowerUsage(gpu{gpu})": {"error": UNKNOWN} for gpu in range(4)}
    many = by_name(check_host(state(flips), DoctorRequest()))["values"]
    assert [f"gpu{gpu}" in many.value for gpu in range(4)] == [True] * 4


@pytest.mark.parametrize("text", ["not started", "in progress", "completed, status 999"])
def test_a_card_that_the_fabric_manager_has_not_registered_is_not_fit(text: str) -> None:
    healthy = state()
    gpus = (replace(healthy.nvml.gpus[0], fabric=text), *healthy.nvml.gpus[1:])
    checks = by_name(check_host(replace(healthy, nvml=replace(healthy.nvml, gpus=gpus)), DoctorRequest()))
    assert (checks["fabric manager"].status, text in checks["fabric manager"].value) == ("fail", True)
    assert "nvidia-fabricmanager" in checks["fabric manager"].fix
    assert {check.status for name, check in checks.items() if name != "fabric manager"} == {"ok"}


def test_cards_without_a_fabric_need_no_manager() -> None:
    healthy = state()
    gpus = tuple(replace(gpu, fabric=None) for gpu in healthy.nvml.gpus)
    checks = by_name(check_host(replace(healthy, nvml=replace(healthy.nvml, gpus=gpus)), DoctorRequest()))
    assert checks["fabric manager"].status == "skip"
