"""Hosts for the doctor's tests: real NVML tapes, and the faults spelt onto them as NVML spells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ci.doctor import Check, DoctorRequest, check_host
from ci.doctor.probes import find_xids
from ci.doctor.records import (
    GIB,
    BuildTools,
    Clock,
    Disk,
    GpuComputation,
    HostState,
    KernelLog,
    ProbeAnswer,
    RunnerInstall,
    SandboxState,
)
from ci.nvml import Nvml, read_nvml
from tests.ci.doctor.tape import Player

RECORDED = Path(__file__).with_name("recorded")
NOW = 1_795_000_000.0  # 2026-11-18
UNKNOWN, LOST, NOT_SUPPORTED, RM_MISMATCH, NOT_LOADED = 999, 15, 3, 18, 9
"""NVML's error codes: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html"""


def tape(name: str = "healthy") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(RECORDED.joinpath(f"{name}.json").read_text())
    return loaded


def cards(count: int) -> dict[str, Any]:
    """The healthy tape of one card, played for `count` of them, on buses 1, 2, …"""
    one = tape()
    many = {call: answer for call, answer in one.items() if "gpu0" not in call and "Handle" not in call}
    many["nvmlDeviceGetCount()"] = count
    for index in range(count):
        many[f"nvmlDeviceGetHandleByIndex({index})"] = f"gpu{index}"
        many |= {c.replace("gpu0", f"gpu{index}"): a for c, a in one.items() if "(gpu0" in c}
        many[f"nvmlDeviceGetMinorNumber(gpu{index})"] = index
        many[f"nvmlDeviceGetUUID(gpu{index})"] = f"GPU-{index}"
        many[f"nvmlDeviceGetPciInfo(gpu{index})"] = {"busId": f"00000000:{index + 1:02X}:00.0"}
    return many


def nvml(changes: dict[str, Any] | None = None, *, count: int = 4) -> Nvml:
    return read_nvml(Player(cards(count) | (changes or {})))


SANDBOX = SandboxState(
    as_root=False,
    program="/usr/bin/bwrap",
    version="0.11.0",
    start=ProbeAnswer(True, "bubblewrap 0.11.0"),
    userns_clone=1,
    max_user_namespaces=513_000,
)
TOOLS = BuildTools(
    git="git 2.47.3",
    cc="gcc 14.2.0",
    cxx="g++ 14.2.0",
    headers=ProbeAnswer(True, "Python 3.13"),
    python="/usr/bin/python3.13",
    installer="uv 0.9.2",
    image_programs="skopeo 1.9.3, umoci 0.4.7",
    template_engine="@huggingface/jinja 0.5.11 with node 20.20.2",
)


def state(changes: dict[str, Any] | None = None, **parts: Any) -> HostState:
    """A healthy host with four GPUs, but for the changes on NVML's tape and the other parts given."""
    seen = nvml(changes)
    right = GpuComputation({gpu.uuid: "" for gpu in seen.gpus}, "13.0")
    defaults: dict[str, Any] = {
        "nvml": seen,
        "pci": tuple(f"0000:0{index + 1}:00.0" for index in range(4)),
        "kernel": KernelLog(source="journal"),
        "driver_computation": right,
        "torch_computation": right,
        "disks": (Disk("/srv", 100 * GIB, 200 * GIB, 10_000_000),),
        "clock": Clock(NOW, True, 0.2),
        "runner": RunnerInstall("2.336.0", "2026-11-10T12:00:00Z", "0" * 64),
        "store": ProbeAnswer(True, "/srv/store: readable"),
        "hub": ProbeAnswer(True, "answered"),
        "sandbox": SANDBOX,
        "tools": TOOLS,
    }
    return HostState(**(defaults | parts))


def kernel(*lines: str) -> KernelLog:
    return KernelLog(find_xids("\n".join(lines)), source="journal")


Fault = tuple[dict[str, Any], dict[str, Any], str, str, str]
"""Changes of NVML's tape, other parts of the state; then the check, its status, and a part of what it says."""


def by_name(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def assert_own_check_fails(fault: Fault, request: DoctorRequest) -> set[str]:
    """Assert that the fault turns its check, and return the statuses of all others."""
    changes, parts, name, status, text = fault
    checks = by_name(check_host(state(changes, **parts), request))
    assert (checks[name].status, text in checks[name].value) == (status, True), checks[name]
    assert checks[name].fix
    return {check.status for check in checks.values() if check.name != name}
