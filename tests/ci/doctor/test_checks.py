"""Each fault of a GPU host, as NVML, the kernel or a probe tells it, turns exactly its own check."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.doctor.checks import examine
from ci.doctor.records import GIB, Answer, Check, Clock, Disk, DoctorRequest, KernelLog, Nvml, Operation, RunnerInstall
from tests.ci.doctor.scenes import LOST, NOT_SUPPORTED, NOW, UNKNOWN, kernel, state

SLOT = DoctorRequest(only=(1, 2), strict=True)
XID_79 = "NVRM: Xid (PCI:0000:02:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
XID_13 = "NVRM: Xid (PCI:0000:02:00): 13, pid=4711, name=python3, Graphics SM Warp Exception on (GPC 0): Out Of Range"
PROCESS = {"pid": 999_999_999, "usedGpuMemory": 7 << 30}
USED = {"total": 80 << 30, "used": 72 << 30, "free": 8 << 30}

FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str, str]] = {
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
        {"driver_op": Operation({"GPU-1": "3 numbers are wrong"})},
        "cuda operation",
        "fail",
        "3 num",
    ),
    "hanging": ({}, {"driver_op": Operation(problem="no answer in 60 s")}, "cuda operation", "fail", "no answer"),
    "blind CUDA": ({}, {"driver_op": Operation({})}, "cuda operation", "fail", "CUDA sees no GPU"),
    "torch wrong": ({}, {"torch_op": Operation({"GPU-1": "no kernel image"})}, "torch", "fail", "no kernel image"),
    "disk full": ({}, {"disks": (Disk("/srv", GIB, 9 * GIB, 10**7),)}, "disk /srv", "fail", "1.0 of 9.0 GiB"),
    "inodes gone": ({}, {"disks": (Disk("/srv", 99 * GIB, 99 * GIB, 12),)}, "disk /srv", "fail", "12 inodes"),
    "disk broken": ({}, {"disks": (Disk("/srv", 0, 0, None, "I/O error"),)}, "disk /srv", "fail", "I/O error"),
    "clock behind": ({}, {"clock": Clock(NOW, True, -3600.0)}, "clock", "fail", "3600 s behind"),
    "clock unkept": ({}, {"clock": Clock(NOW, False)}, "clock", "warn", "not synchronised"),
    "runner unknown": ({}, {"runner": Answer(False, "no manifest")}, "runner", "fail", "no manifest"),
    "store writable": ({}, {"store": Answer(False, "/srv is writable")}, "store", "fail", "writable"),
    "hub away": ({}, {"hub": Answer(False, "refused")}, "hub", "fail", "refused"),
}


def by_name(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_healthy_host_is_fit_in_every_check() -> None:
    assert {check.status for check in examine(state(), replace(SLOT, only=()))} == {"ok"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_turns_its_own_check(fault: str) -> None:
    changes, parts, name, status, text = FAULTS[fault]
    checks = by_name(examine(state(changes, **parts), replace(SLOT, only=())))
    assert (checks[name].status, text in checks[name].value) == (status, True), checks[name]
    assert checks[name].fix
    others = {check.status for check in checks.values() if check.name != name}
    assert others == {"ok"} or fault == "card gone"  # the operation is not asked of a card that is gone


@pytest.mark.parametrize("gpu", [0, 3])
def test_a_slot_is_not_judged_by_another_slots_gpu(gpu: int) -> None:
    elsewhere = {f"nvmlDeviceGetTotalEccErrors(gpu{gpu}, 1, 0)": 5}
    log = kernel(XID_79.replace("0000:02", f"0000:0{gpu + 1}"))
    assert {check.status for check in examine(state(elsewhere, kernel=log), SLOT)} == {"ok"}


def test_a_slots_missing_gpu_is_missed() -> None:
    gone = {"nvmlDeviceGetHandleByIndex(1)": {"error": LOST}}
    assert by_name(examine(state(gone), SLOT))["gpus"].value.startswith("1 of 2")


def test_more_gpus_than_expected_is_a_fault_too() -> None:
    assert by_name(examine(state(), DoctorRequest(gpus=2)))["gpus"].status == "fail"


def test_without_a_gpu_the_answer_says_what_to_do() -> None:
    none = replace(state(), nvml=Nvml(problem="no NVIDIA driver on this host"), pci=())
    checks = by_name(examine(none, DoctorRequest()))
    assert checks["gpus"].status == "fail"
    assert "--device cpu" in checks["gpus"].fix
    assert "driver" not in checks


def test_a_driver_that_sees_none_of_the_cards_on_the_bus_is_not_fit() -> None:
    blind = replace(state(), nvml=Nvml(driver="580", cuda="13.0"))
    assert by_name(examine(blind, DoctorRequest()))["gpus"].value.startswith("0 of 4")
    assert by_name(examine(replace(blind, pci=()), DoctorRequest()))["gpus"].status == "fail"


def test_a_host_that_is_to_have_no_gpu_may_have_none() -> None:
    none = replace(state(), nvml=Nvml(problem="no NVIDIA driver on this host"), pci=())
    assert {check.status for check in examine(none, DoctorRequest(gpus=0, strict=True))} == {"ok", "skip"}


def test_what_a_card_does_not_count_is_skipped_and_never_blamed() -> None:
    geforce = {
        f"{call}(gpu{gpu}{rest})": {"error": NOT_SUPPORTED}
        for gpu in range(4)
        for call, rest in (
            *(("nvmlDeviceGetEccMode", ""), ("nvmlDeviceGetRemappedRows", ""), ("nvmlDeviceGetMigMode", "")),
            *(("nvmlDeviceGetTotalEccErrors", ", 1, 0"), ("nvmlDeviceGetTotalEccErrors", ", 1, 1")),
        )
    }
    checks = by_name(examine(state(geforce), SLOT))
    assert [checks[name].status for name in ("ecc", "row remapping", "mig")] == ["skip"] * 3
    assert {check.status for check in checks.values()} == {"ok", "skip"}


@pytest.mark.parametrize("name", ["xid", "store"])
def test_strict_takes_no_unanswered_question_for_a_yes(name: str) -> None:
    blind = state(kernel=KernelLog(problem="run as root"), store=Answer(None, "only root can look"))
    assert by_name(examine(blind, replace(SLOT, strict=False)))[name].status == "skip"
    strict = by_name(examine(blind, SLOT))[name]
    assert strict.status == "fail"
    assert strict.value.startswith("not checked")


@pytest.mark.parametrize(
    ("version", "published", "status"),
    [
        ("2.336.0", "2026-11-17T00:00:00Z", "ok"),
        ("2.336.0", "2026-10-25T00:00:00Z", "warn"),
        ("2.336.0", "2026-10-18T00:00:00Z", "fail"),
        ("2.328.9", "2026-11-17T00:00:00Z", "fail"),
        ("2.336.0", "2027-01-01T00:00:00Z", "fail"),  # published in the future: one of the two clocks is wrong
        ("2.336.0", "yesterday", "fail"),
        ("2.336.0", "2026-11-17T00:00:00", "fail"),
    ],
)
def test_a_runner_is_fresh_for_less_than_thirty_days(version: str, published: str, status: str) -> None:
    seen = state(runner=RunnerInstall(version, published, "0" * 64))
    assert by_name(examine(seen, SLOT))["runner"].status == status


@pytest.mark.parametrize(
    ("newest_at", "status"),
    [("2026-11-17T00:00:00Z", "ok"), ("2026-11-01T00:00:00Z", "fail"), ("", "fail"), ("x", "fail")],
)
def test_a_release_without_a_successor_does_not_age(newest_at: str, status: str) -> None:
    old = RunnerInstall("2.336.0", "2026-10-01T00:00:00Z", "0" * 64, newest_at)
    assert by_name(examine(state(runner=old), SLOT))["runner"].status == status


@pytest.mark.parametrize(("minimum", "status"), [("580.100", "ok"), ("580.159.4", "ok"), ("590", "fail")])
def test_the_driver_is_compared_as_numbers(minimum: str, status: str) -> None:
    assert by_name(examine(state(), DoctorRequest(min_driver=minimum)))["driver"].status == status


def test_offline_on_purpose_is_fine() -> None:
    assert by_name(examine(state(hub=None), DoctorRequest(offline=True)))["hub"].status == "ok"


def test_every_card_with_a_fault_is_named() -> None:
    flips = {f"nvmlDeviceGetPowerUsage(gpu{gpu})": {"error": UNKNOWN} for gpu in range(4)}
    many = by_name(examine(state(flips), DoctorRequest()))["values"]
    assert [f"gpu{gpu}" in many.value for gpu in range(4)] == [True] * 4
