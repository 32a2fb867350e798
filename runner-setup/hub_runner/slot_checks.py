"""Checks of one slot: the doctor before a job, and a search for leftovers after it.

The supervisor runs them in processes of their own: a faulty GPU driver can hang or kill the process that calls it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ci.certificates import name_certificates
from ci.doctor import Diagnosis, DoctorRequest, diagnose, probe_host
from ci.doctor.gpu_checks import select_gpus
from ci.doctor.host_checks import MAX_SKEW
from ci.doctor.records import GIB, MIB, Check, SandboxState
from ci.nvml import read_nvml
from hub_runner.files import write_atomically
from hub_runner.slot_sandbox import probe_slot_sandbox

if TYPE_CHECKING:
    from ci.doctor.records import Clock
    from ci.nvml import Gpu
    from hub_runner.config import Config, Slot
    from hub_runner.layout import Layout
    from hub_runner.registrar import RegistrarClient

HUB = "https://huggingface.co"


def build_doctor_request(config: Config, slot: Slot, layout: Layout) -> DoctorRequest:
    """Return what must be true of `slot` before a runner is offered.

    The request is strict: a question without an answer counts as a failure. The doctor does not try the sandbox
    itself: it must start under the slot's unit, not under the supervisor's.
    """
    rules = config.doctor
    return DoctorRequest(
        gpus=None if slot.gpus else 0,
        only=slot.gpus,
        min_driver=rules.min_driver,
        max_memory_used=rules.max_gpu_memory_used_mib * MIB,
        paths=(str(layout.data), config.runner.store),
        min_free=rules.min_free_gib * GIB,
        runner=str(layout.runners / "current"),
        store=None if slot.writes_store else config.runner.store,
        job_user=slot.user,
        endpoint=HUB,
        offline=True,
        strict=True,
        isolation="none",
        tools=bool(slot.gpus),
        images=config.environments.images,
        python=rules.python,
    )


def diagnose_slot(config: Config, slot: Slot, layout: Layout, registrar: RegistrarClient) -> Diagnosis:
    """Run the doctor on one slot.

    The registrar asks the Hub, because the supervisor has no network.
    """
    request = build_doctor_request(config, slot, layout)
    places = {"HUB_TESTS_SHARED_ENVIRONMENTS": layout.environments, "HUB_TESTS_NODE_MODULES": layout.node_modules}
    environ = {**{name: str(path) for name, path in places.items()}, **name_certificates(config.proxy.certificates)}
    state = probe_host(request, environ)
    if not config.doctor.offline:
        hub, skew = registrar.check_hub(request.endpoint)
        request = replace(request, offline=False)
        state = replace(state, hub=hub, clock=replace(state.clock, skew=skew))
    state = replace(state, clock=reject_backward_clock(state.clock, layout.state / "clock"))
    if slot.writes_store:
        return diagnose(state, request)  # it runs trusted code only
    sandbox = probe_slot_sandbox(slot, layout)
    if isinstance(sandbox, SandboxState):
        return diagnose(replace(state, sandbox=sandbox), replace(request, isolation="required"))
    diagnosis = diagnose(state, request)
    return replace(diagnosis, fit=False, checks=(*diagnosis.checks, _make_untried(sandbox)))


def _make_untried(reason: str) -> Check:
    fix = "systemctl status hub-runner-supervisor; the jobs of this slot would end with exit code 3"
    return Check("sandbox", "fail", reason, "a probe sandbox starts in the slot", fix)


def reject_backward_clock(clock: Clock, mark: Path) -> Clock:
    """Return a clock that never runs backwards: else an old runner would look new.

    The file `mark` keeps the latest time that a time service or a server confirmed.
    """
    confirmed = clock.synchronised or (clock.skew is not None and abs(clock.skew) <= MAX_SKEW)
    try:
        latest = float(mark.read_text())
    except (OSError, ValueError):
        latest = 0.0
    if confirmed:
        write_atomically(mark, f"{clock.now}\n")
        return clock
    return replace(clock, now=max(clock.now, latest))


def find_leftovers(config: Config, slot: Slot, layout: Layout) -> tuple[str, ...]:
    """Find processes of the slot's user, processes and memory on its GPUs, and its disk."""
    gpus = select_gpus(read_nvml().gpus, slot.gpus) if slot.gpus else ()
    disk = layout.disk(slot.index)
    return (
        *find_processes(slot.uid),
        *(text for gpu in gpus for text in _find_gpu_use(gpu, config.doctor.max_gpu_memory_used_mib * MIB)),
        *((f"{disk} is still mounted",) if is_mounted(disk) else ()),
    )


def find_processes(uid: int, proc: Path = Path("/proc")) -> tuple[str, ...]:
    """Find living processes by real, effective, saved or file-system user id, in any cgroup."""
    processes = []
    for status in proc.glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except (OSError, UnicodeDecodeError):
            continue  # it ended meanwhile
        if str(uid) in fields["Uid"].split() and not fields["State"].strip().startswith(("Z", "X")):
            processes.append(f"pid {status.parent.name} {fields['Name'].strip()}")
    return tuple(sorted(processes))


def _find_gpu_use(gpu: Gpu, allowed: int) -> list[str]:
    uses = [f"pid {p.pid} {p.name or '?'} on gpu{gpu.index}" for p in gpu.processes]
    if gpu.memory_used is not None and gpu.memory_used > allowed:
        uses.append(f"{gpu.memory_used // MIB} MiB in use on gpu{gpu.index}")
    return uses


def is_mounted(place: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Return whether a file system is mounted at `place`: the fifth field of mountinfo(5)."""
    # The kernel writes a space, a tab, a newline and a backslash as octal numbers.
    escaped = str(place).translate({ord(sign): f"\\{ord(sign):03o}" for sign in " \t\n\\"})
    return any(line.split()[4] == escaped for line in mounts.read_text().splitlines())
