"""The checks of the GPUs: what was seen against what must be true. Pure functions of a HostState and a request."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ci.doctor.host_checks import parse_version
from ci.doctor.records import MIB, Check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ci.doctor.records import DoctorRequest, GpuComputation, HostState, Status, Xid
    from ci.nvml import Gpu

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 69})
"""Xids that a wrong program causes on a good card (https://docs.nvidia.com/deploy/xid-errors/). The others come from
the card, the driver or the machine, and stay in the log until the host is rebooted."""

MAX_SHOWN = 4
"""Faults that one check names."""


def check_gpus(state: HostState, request: DoctorRequest) -> Iterator[Check]:
    """Make each check of the GPUs: first their number, then their health, then their results."""
    if request.gpus == 0 and not request.only:
        yield Check("gpus", "skip", "this host should have no GPU", "0")
        return
    yield _check_count(state, request)
    if state.nvml.problem or not state.nvml.gpus:
        return
    gpus = select_gpus(state.nvml.gpus, request.only)
    yield _check_driver(state, request)
    for check in (_check_values, _check_ecc, _check_remapping, _check_mig, _check_fabric):
        yield check(gpus)
    yield _check_xids(state, gpus)
    yield _check_memory(gpus, request.max_memory_used)
    yield _check_processes(gpus)
    yield _check_computation("cuda operation", state.driver_computation)
    yield _check_torch(state.torch_computation)


def select_gpus(gpus: Iterable[Gpu], only: tuple[int, ...]) -> tuple[Gpu, ...]:
    """Select the GPUs by minor number; `only` empty means all."""
    return tuple(gpu for gpu in gpus if not only or gpu.minor in only)


def _check_count(state: HostState, request: DoctorRequest) -> Check:
    answering = [gpu for gpu in select_gpus(state.nvml.gpus, request.only) if "handle" not in gpu.errors]
    expected = len(request.only) or (len(state.pci) if request.gpus is None else request.gpus)
    seen = f"{len(answering)} of {max(expected, len(answering))}"
    wanted = f"minors {', '.join(map(str, request.only))}" if request.only else f"{max(expected, 1)}"
    if state.nvml.problem:
        bus = f" ({len(state.pci)} NVIDIA GPUs on the PCI bus)" if state.pci else " (and no NVIDIA GPU on the PCI bus)"
        fix = "install the driver and reboot" if state.pci else "no GPU here: run the suite with --device cpu"
        return Check("gpus", "fail", state.nvml.problem + bus, wanted, fix)
    if not answering or len(answering) != expected:
        missing = "; ".join(
            f"gpu{gpu.index}: {gpu.errors['handle']}" for gpu in state.nvml.gpus if "handle" in gpu.errors
        )
        fix = "see dmesg for Xid 79 (fallen off the bus); reboot, then reseat or replace the card"
        return Check("gpus", "fail", seen + (f" ({missing})" if missing else ""), wanted, fix)
    names = sorted({gpu.name for gpu in answering})
    return Check("gpus", "ok", f"{seen} ({', '.join(names)})", wanted)


def _check_driver(state: HostState, request: DoctorRequest) -> Check:
    value = f"{state.nvml.driver}, CUDA {state.nvml.cuda}"
    if request.min_driver and parse_version(state.nvml.driver) < parse_version(request.min_driver):
        return Check("driver", "fail", value, f">= {request.min_driver}", "upgrade the driver, then reboot")
    return Check("driver", "ok", value, f">= {request.min_driver}" if request.min_driver else "")


def _check_each(
    name: str, gpus: tuple[Gpu, ...], judge: Callable[[Gpu], tuple[Status, str] | None], *, expected: str, fix: str
) -> Check:
    """Make one check over several GPUs.

    Its status is the worst of all answers, and it names every GPU that is not ok.
    """
    answers = [(gpu, judge(gpu)) for gpu in gpus]
    if answers and all(answer is None for _, answer in answers):
        return Check(name, "skip", "these cards do not have this value", expected)
    answered = [(status, f"gpu{gpu.index} {text}") for gpu, answer in answers if answer for status, text in (answer,)]
    worst = worst_status(status for status, _ in answered)
    if worst == "ok":
        return Check(name, "ok", "; ".join(sorted({text for _, answer in answers if answer for _, text in (answer,)})))
    return Check(name, worst, join_first(text for status, text in answered if status != "ok"), expected, fix)


def worst_status(statuses: Iterable[Status]) -> Status:
    """Return the worst status: fail, else warn, else ok. A skip does not count."""
    seen = set(statuses)
    return "fail" if "fail" in seen else "warn" if "warn" in seen else "ok"


def join_first(texts: Iterable[str]) -> str:
    """Join the first few texts and say how many more there are."""
    every = list(texts)
    rest = f"; and {len(every) - MAX_SHOWN} more" if len(every) > MAX_SHOWN else ""
    return "; ".join(every[:MAX_SHOWN]) + rest


def _check_values(gpus: tuple[Gpu, ...]) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str]:
        if not gpu.errors:
            return "ok", "every value readable"
        return "fail", "ERR! " + ", ".join(f"{what} ({text})" for what, text in sorted(gpu.errors.items()))

    return _check_each(
        "values", gpus, judge, expected="no ERR!", fix="reset the card or reboot; replace it if it comes back"
    )


def _check_ecc(gpus: tuple[Gpu, ...]) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str] | None:
        if gpu.ecc_volatile:
            return "fail", f"{gpu.ecc_volatile} uncorrected errors since the driver was loaded"
        if gpu.ecc_on is False:
            return "warn", "ECC is off: bit errors are not detected"
        if gpu.ecc_aggregate:
            return "warn", f"{gpu.ecc_aggregate} uncorrected errors in its life"
        return None if gpu.ecc_on is None else ("ok", "no uncorrected error")

    fix = "reboot, then run a memory test (dcgmi diag -r 3); nvidia-smi -e 1 turns ECC on"
    return _check_each("ecc", gpus, judge, expected="on, 0 uncorrected", fix=fix)


def _check_remapping(gpus: tuple[Gpu, ...]) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str] | None:
        rows = gpu.remap
        if gpu.retirement_pending or (rows and rows.pending):
            return "fail", "a remapping waits for a reset"
        if rows is None:
            return None if gpu.retirement_pending is None else ("ok", "nothing pending")
        if rows.failed:
            return "fail", "row remapping failed: no spare rows are left"
        return ("warn", f"{rows.uncorrectable} rows remapped") if rows.uncorrectable else ("ok", "nothing pending")

    fix = "reboot; replace a card if its remapping failed"
    return _check_each("row remapping", gpus, judge, expected="none pending, none failed", fix=fix)


def _check_mig(gpus: tuple[Gpu, ...]) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str] | None:
        return None if gpu.mig is None else ("fail", "MIG is on") if gpu.mig else ("ok", "off")

    return _check_each("mig", gpus, judge, expected="off", fix="runners use whole GPUs: nvidia-smi -mig 0")


def _check_fabric(gpus: tuple[Gpu, ...]) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str] | None:
        if gpu.fabric is None:
            return None
        return ("ok" if gpu.fabric == "completed" else "fail"), f"registration {gpu.fabric}"

    fix = "install nvidia-fabricmanager in the driver's version; systemctl enable --now nvidia-fabricmanager"
    return _check_each("fabric manager", gpus, judge, expected="registration completed", fix=fix)


def _check_xids(state: HostState, gpus: tuple[Gpu, ...]) -> Check:
    expected = "no hardware Xid since boot"
    if state.kernel.problem:
        return Check("xid", "skip", state.kernel.problem, expected, unmade=True)
    by_card = {parse_pci_address(gpu.pci): gpu for gpu in gpus if gpu.pci}
    counts: dict[tuple[int, int], list[Xid]] = defaultdict(list)
    for xid in state.kernel.xids:
        if gpu := by_card.get(parse_pci_address(xid.pci)):
            counts[gpu.index, xid.code].append(xid)
    reports = [f"gpu{index} Xid {code} x{len(xids)} ({xids[-1].text[:80]})" for (index, code), xids in counts.items()]
    if not reports:
        return Check("xid", "ok", f"none since boot ({state.kernel.source})", expected)
    hardware = any(code not in APPLICATION_XIDS for _, code in counts)
    fix = "reboot; if it comes back, take the card out" if hardware else "a program caused this, not the card"
    return Check("xid", "fail" if hardware else "warn", join_first(reports), expected, fix)


def parse_pci_address(pci: str) -> tuple[int, ...]:
    """Return domain, bus and device of a PCI address.

    The digits of the domain vary, and a function may follow: `00000000:02:00.0`, `0000:02:00`.
    """
    return tuple(int(part, 16) for part in re.split("[:.]", pci)[:3])


def _check_memory(gpus: tuple[Gpu, ...], allowed: int) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str] | None:
        if gpu.memory_used is None or gpu.memory_total is None:
            return None
        text = f"{gpu.memory_used // MIB} MiB of {gpu.memory_total // MIB} MiB in use"
        if gpu.memory_used <= allowed:
            return "ok", f"{gpu.memory_used // MIB} MiB in use"
        return "fail", text + ("" if gpu.processes else ", by no process that this host can see")

    fix = "stop the process that holds it; memory without a process needs a reset of the card or a reboot"
    return _check_each("gpu memory", gpus, judge, expected=f"<= {allowed // MIB} MiB in use", fix=fix)


def _check_processes(gpus: tuple[Gpu, ...]) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str]:
        if not gpu.processes:
            return "ok", "none"
        return "fail", ", ".join(f"pid {p.pid} {p.name or '?'} ({p.user or 'unknown user'})" for p in gpu.processes)

    return _check_each(
        "gpu processes", gpus, judge, expected="none", fix="a job still runs, or did not stop them: stop them"
    )


def _check_computation(name: str, computation: GpuComputation) -> Check:
    expected, fix = "every number correct on every GPU", "see dmesg; do not trust this card until it is tested"
    if computation.problem:
        return Check(name, "fail", computation.problem, expected, fix)
    if wrong := {uuid: text for uuid, text in computation.devices.items() if text}:
        return Check(name, "fail", join_first(f"{uuid}: {text}" for uuid, text in wrong.items()), expected, fix)
    if not computation.devices:
        return Check(name, "fail", "CUDA sees no GPU", expected, "is CUDA_VISIBLE_DEVICES empty?")
    return Check(name, "ok", f"correct on {len(computation.devices)} ({computation.version})", expected)


def _check_torch(computation: GpuComputation) -> Check:
    if computation.absent:
        return Check("torch", "skip", computation.absent)
    return _check_computation("torch", computation)
