"""The whole diagnosis: probe the host, check what was seen, and name the host."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ci.doctor.gpu_checks import check_gpus, select_gpus
from ci.doctor.host_checks import check_surroundings
from ci.doctor.identity import read_host_identity
from ci.doctor.probes import (
    read_clock,
    read_disk,
    read_hub,
    read_kernel_log,
    read_pci,
    read_proxy,
    read_runner,
    read_store,
    run_computation,
)
from ci.doctor.provision_checks import check_provisions, read_provisions
from ci.doctor.records import Check, Diagnosis, DoctorRequest, GpuComputation, HostState
from ci.doctor.sandbox_checks import check_sandbox
from ci.doctor.sandbox_probes import read_sandbox, read_tools
from ci.nvml import read_nvml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.nvml import Nvml


def run_doctor(request: DoctorRequest, environ: Mapping[str, str]) -> Diagnosis:
    """Probe this host and check it, in a few seconds.

    Only root can read the kernel log, and the store as another user.
    """
    return diagnose(probe_host(request, environ), request)


def diagnose(state: HostState, request: DoctorRequest) -> Diagnosis:
    """Check what was seen and add the identity of this host."""
    checks = check_host(state, request)
    fit = all(check.status != "fail" for check in checks)
    return Diagnosis(fit, checks, read_host_identity(state.nvml))


def check_host(state: HostState, request: DoctorRequest) -> tuple[Check, ...]:
    """Make every check. With `strict`, a check that could not be made has failed."""
    checks = (*check_gpus(state, request), *check_surroundings(state, request), *check_sandbox(state, request))
    checks = (*checks, *check_provisions(state.provisions, "fail" if request.strict else "warn"))
    return tuple(_fail_unmade(check) for check in checks) if request.strict else checks


def probe_host(request: DoctorRequest, environ: Mapping[str, str]) -> HostState:
    """Run every probe that the request asks for, cheapest first. No probe raises."""
    nvml = read_nvml()
    hub, skew = (None, None) if request.offline else read_hub(request.endpoint)
    return HostState(
        nvml=nvml,
        pci=read_pci(),
        kernel=read_kernel_log(),
        driver_computation=_run_computation("driver", nvml, request),
        torch_computation=_run_computation("torch", nvml, request),
        disks=tuple(read_disk(path) for path in request.paths),
        clock=read_clock(skew),
        runner=read_runner(request.runner) if request.runner else None,
        store=read_store(request.store, request.job_user) if request.store else None,
        hub=hub,
        proxy=None if request.offline else read_proxy(environ),
        sandbox=None if request.isolation == "none" else read_sandbox(),
        tools=read_tools(request.python, environ) if request.tools else None,
        provisions=read_provisions(environ, select_gpus(nvml.gpus, request.only)),
    )


def _fail_unmade(check: Check) -> Check:
    return replace(check, status="fail", value=f"not checked: {check.value}") if check.unmade else check


def _run_computation(which: Literal["driver", "torch"], nvml: Nvml, request: DoctorRequest) -> GpuComputation:
    gpus = select_gpus(nvml.gpus, request.only)
    if not gpus:
        return GpuComputation(absent="no GPU to compute on")
    uuids = tuple(gpu.uuid for gpu in gpus if gpu.uuid)
    return run_computation(which, uuids, python=request.python, timeout=request.timeout)
