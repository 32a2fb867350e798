"""What was seen against what must be true: pure functions from a HostState and a DoctorRequest to checks."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ci.doctor.host_checks import host_checks, numbers
from ci.doctor.records import MIB, Check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ci.doctor.records import DoctorRequest, Gpu, HostState, Operation, Status, Xid

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 69})
"""Xids that a wrong program causes on a sound card (https://docs.nvidia.com/deploy/xid-errors/); the rest are the
card's, the driver's or the machine's, and stay in the log until the host is rebooted."""

SHOWN = 4


def examine(state: HostState, request: DoctorRequest) -> tuple[Check, ...]:
    """Every check, in the order in which one would look. With `strict`, what could not be checked has failed."""
    checks = [*_gpu_checks(state, request), *host_checks(state, request)]
    return tuple(_strict(check) if request.strict else check for check in checks)


def _strict(check: Check) -> Check:
    return replace(check, status="fail", value=f"not checked: {check.value}") if check.unmade else check


def _gpu_checks(state: HostState, request: DoctorRequest) -> Iterator[Check]:
    if request.gpus == 0 and not request.only:
        yield Check("gpus", "skip", "this host is to have no GPU", "0")
        return
    yield _count(state, request)
    if state.nvml.problem or not state.nvml.gpus:
        return
    gpus = selected(state.nvml.gpus, request.only)
    yield _driver(state, request)
    for check in (_errors, _ecc, _remapping, _mig):
        yield check(gpus)
    yield _xids(state, gpus)
    yield _memory(gpus, request.max_memory_used)
    yield _processes(gpus)
    yield _operation("cuda operation", state.driver_op)
    yield _torch(state.torch_op)


def selected(gpus: Iterable[Gpu], only: tuple[int, ...]) -> tuple[Gpu, ...]:
    """The GPUs that are asked about, by minor number."""
    return tuple(gpu for gpu in gpus if not only or gpu.minor in only)


def _count(state: HostState, request: DoctorRequest) -> Check:
    answering = [gpu for gpu in selected(state.nvml.gpus, request.only) if "handle" not in gpu.errors]
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


def _driver(state: HostState, request: DoctorRequest) -> Check:
    value = f"{state.nvml.driver}, CUDA {state.nvml.cuda}"
    if request.min_driver and numbers(state.nvml.driver) < numbers(request.min_driver):
        return Check("driver", "fail", value, f">= {request.min_driver}", "upgrade the driver, then reboot")
    return Check("driver", "ok", value, f">= {request.min_driver}" if request.min_driver else "")


def _each(
    name: str, gpus: tuple[Gpu, ...], judge: Callable[[Gpu], tuple[Status, str] | None], *, expected: str, fix: str
) -> Check:
    """One check over several GPUs: the worst answer is the status, and every GPU that is not fine is named."""
    answers = [(gpu, judge(gpu)) for gpu in gpus]
    if answers and all(answer is None for _, answer in answers):
        return Check(name, "skip", "these cards do not count this", expected)
    told = [(status, f"gpu{gpu.index} {text}") for gpu, answer in answers if answer for status, text in (answer,)]
    worst = worst_of(status for status, _ in told)
    if worst == "ok":
        return Check(name, "ok", "; ".join(sorted({text for _, answer in answers if answer for _, text in (answer,)})))
    return Check(name, worst, some(text for status, text in told if status != "ok"), expected, fix)


def worst_of(statuses: Iterable[Status]) -> Status:
    """fail over warn over ok; a skip among others does not count."""
    seen = set(statuses)
    return "fail" if "fail" in seen else "warn" if "warn" in seen else "ok"


def some(texts: Iterable[str]) -> str:
    """A few of the texts, and how many more there are."""
    every = list(texts)
    rest = f"; and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return "; ".join(every[:SHOWN]) + rest


def _errors(gpus: tuple[Gpu, ...]) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str]:
        if not gpu.errors:
            return "ok", "every value readable"
        return "fail", "ERR! " + ", ".join(f"{what} ({text})" for what, text in sorted(gpu.errors.items()))

    return _each("values", gpus, judge, expected="no ERR!", fix="reset the card or reboot; replace it if it comes back")


def _ecc(gpus: tuple[Gpu, ...]) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str] | None:
        if gpu.ecc_volatile:
            return "fail", f"{gpu.ecc_volatile} uncorrected errors since the driver was loaded"
        if gpu.ecc_on is False:
            return "warn", "ECC is off: bit flips go unseen"
        if gpu.ecc_aggregate:
            return "warn", f"{gpu.ecc_aggregate} uncorrected errors in its life"
        return None if gpu.ecc_on is None else ("ok", "no uncorrected error")

    fix = "reboot, then run a memory test (dcgmi diag -r 3); nvidia-smi -e 1 turns ECC on"
    return _each("ecc", gpus, judge, expected="on, 0 uncorrected", fix=fix)


def _remapping(gpus: tuple[Gpu, ...]) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str] | None:
        rows = gpu.remap
        if gpu.retirement_pending or (rows and rows.pending):
            return "fail", "a remapping waits for a reset"
        if rows is None:
            return None if gpu.retirement_pending is None else ("ok", "nothing pending")
        if rows.failed:
            return "fail", "row remapping failed: no spare rows are left"
        return ("warn", f"{rows.uncorrectable} rows remapped") if rows.uncorrectable else ("ok", "nothing pending")

    fix = "reboot; a card whose remapping failed is to be replaced"
    return _each("row remapping", gpus, judge, expected="none pending, none failed", fix=fix)


def _mig(gpus: tuple[Gpu, ...]) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str] | None:
        return None if gpu.mig is None else ("fail", "MIG is on") if gpu.mig else ("ok", "off")

    return _each("mig", gpus, judge, expected="off", fix="runners use whole GPUs: nvidia-smi -mig 0")


def _xids(state: HostState, gpus: tuple[Gpu, ...]) -> Check:
    expected = "no hardware Xid since boot"
    if state.kernel.problem:
        return Check("xid", "skip", state.kernel.problem, expected, unmade=True)
    by_card = {card(gpu.pci): gpu for gpu in gpus if gpu.pci}
    counts: dict[tuple[int, int], list[Xid]] = defaultdict(list)
    for xid in state.kernel.xids:
        if gpu := by_card.get(card(xid.pci)):
            counts[gpu.index, xid.code].append(xid)
    told = [f"gpu{index} Xid {code} x{len(xids)} ({xids[-1].text[:80]})" for (index, code), xids in counts.items()]
    if not told:
        return Check("xid", "ok", f"none since boot ({state.kernel.source})", expected)
    hardware = any(code not in APPLICATION_XIDS for _, code in counts)
    fix = "reboot; if it comes back, take the card out" if hardware else "programs did this, not the card"
    return Check("xid", "fail" if hardware else "warn", some(told), expected, fix)


def card(pci: str) -> tuple[int, ...]:
    """Domain, bus and device of a PCI address, however many digits and whether or not a function follows."""
    return tuple(int(part, 16) for part in re.split("[:.]", pci)[:3])


def _memory(gpus: tuple[Gpu, ...], allowed: int) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str] | None:
        if gpu.memory_used is None or gpu.memory_total is None:
            return None
        text = f"{gpu.memory_used // MIB} MiB of {gpu.memory_total // MIB} MiB in use"
        if gpu.memory_used <= allowed:
            return "ok", f"{gpu.memory_used // MIB} MiB in use"
        return "fail", text + ("" if gpu.processes else ", by no process that this host sees")

    fix = "stop what holds it; memory without an owner needs a reset of the card or a reboot"
    return _each("gpu memory", gpus, judge, expected=f"<= {allowed // MIB} MiB in use", fix=fix)


def _processes(gpus: tuple[Gpu, ...]) -> Check:
    def judge(gpu: Gpu) -> tuple[Status, str]:
        if not gpu.processes:
            return "ok", "none"
        return "fail", ", ".join(f"pid {p.pid} {p.name or '?'} ({p.user or 'unknown user'})" for p in gpu.processes)

    return _each("gpu processes", gpus, judge, expected="none", fix="a job still runs, or left these behind: stop them")


def _operation(name: str, operation: Operation) -> Check:
    expected, fix = "every number right on every GPU", "see dmesg; do not trust results of this card until it is tested"
    if operation.problem:
        return Check(name, "fail", operation.problem, expected, fix)
    if wrong := {uuid: text for uuid, text in operation.devices.items() if text}:
        return Check(name, "fail", some(f"{uuid}: {text}" for uuid, text in wrong.items()), expected, fix)
    if not operation.devices:
        return Check(name, "fail", "CUDA sees no GPU", expected, "is CUDA_VISIBLE_DEVICES empty?")
    return Check(name, "ok", f"right on {len(operation.devices)} ({operation.version})", expected)


def _torch(operation: Operation) -> Check:
    if operation.absent:
        return Check("torch", "skip", operation.absent)
    return _operation("torch", operation)
