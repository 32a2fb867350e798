"""`hub-tests doctor`: is this host fit to run GPU tests?

look (probes, the only I/O) → HostState → examine (pure) → Diagnosis → render or JSON.
"""

from __future__ import annotations

from ci.doctor.checks import examine, selected
from ci.doctor.identity import host_identity
from ci.doctor.nvml import read_nvml
from ci.doctor.probes import (
    read_clock,
    read_disk,
    read_hub,
    read_kernel_log,
    read_pci,
    read_runner,
    read_store,
    run_operation,
)
from ci.doctor.records import Check, Diagnosis, DoctorRequest, HostState, Nvml, Operation

__all__ = ["Check", "Diagnosis", "DoctorRequest", "HostState", "diagnose", "host_identity", "look", "run_doctor"]


def run_doctor(request: DoctorRequest) -> Diagnosis:
    """Look at this host and judge it. Takes seconds; needs root to see the kernel log and with the job user's eyes."""
    return diagnose(look(request), request)


def diagnose(state: HostState, request: DoctorRequest) -> Diagnosis:
    """Judge what was seen."""
    checks = examine(state, request)
    return Diagnosis(all(check.status != "fail" for check in checks), checks, host_identity(state.nvml))


def look(request: DoctorRequest) -> HostState:
    """Every probe that the request asks for, cheapest first; none of them raises."""
    nvml = read_nvml()
    hub, skew = (None, None) if request.offline else read_hub(request.endpoint)
    return HostState(
        nvml=nvml,
        pci=read_pci(),
        kernel=read_kernel_log(),
        driver_op=_operation("driver", nvml, request),
        torch_op=_operation("torch", nvml, request),
        disks=tuple(read_disk(path) for path in request.paths),
        clock=read_clock(skew),
        runner=read_runner(request.runner) if request.runner else None,
        store=read_store(request.store, request.job_user) if request.store else None,
        hub=hub,
    )


def _operation(which: str, nvml: Nvml, request: DoctorRequest) -> Operation:
    gpus = selected(nvml.gpus, request.only)
    if not gpus:
        return Operation(absent="there is no GPU to ask")
    uuids = tuple(gpu.uuid for gpu in gpus if gpu.uuid)
    return run_operation(which, uuids, python=request.python, timeout=request.timeout)
