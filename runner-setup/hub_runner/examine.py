"""What the supervisor asks of this machine in processes of their own: the doctor for one slot, and what a job left.

They are apart because a sick driver hangs or kills whoever asks it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ci.doctor import Diagnosis, DoctorRequest, diagnose, probe_host
from ci.doctor.gpu_checks import select_gpus
from ci.doctor.host_checks import MAX_SKEW
from ci.doctor.nvml import read_nvml
from ci.doctor.records import GIB, MIB
from hub_runner.state import write_atomically

if TYPE_CHECKING:
    from ci.doctor.records import Clock, Gpu
    from hub_runner.config import Config, Slot
    from hub_runner.layout import Layout
    from hub_runner.mint import MintClient

HUB = "https://huggingface.co"


def doctor_request(config: Config, slot: Slot, layout: Layout) -> DoctorRequest:
    """What must be true before a runner is offered on `slot`. Nothing that was asked may stay without an answer."""
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
        python=rules.python,
    )


def diagnose_slot(config: Config, slot: Slot, layout: Layout, mint: MintClient) -> Diagnosis:
    """The doctor on one slot. The Hub is asked through the minting unit, which alone has a network."""
    request = doctor_request(config, slot, layout)
    state = probe_host(request)
    if not config.doctor.offline:
        hub, skew = mint.hub(request.endpoint)
        request = replace(request, offline=False)
        state = replace(state, hub=hub, clock=replace(state.clock, skew=skew))
    return diagnose(replace(state, clock=steady(state.clock, layout.state / "clock")), request)


def steady(clock: Clock, mark: Path) -> Clock:
    """A clock that does not run backwards: set back, it would make a stale runner look fresh.

    The latest time is kept in `mark`, and believed only where a time service or a server vouched for it.
    """
    vouched = clock.synchronised or (clock.skew is not None and abs(clock.skew) <= MAX_SKEW)
    try:
        seen = float(mark.read_text())
    except (OSError, ValueError):
        seen = 0.0
    if vouched:
        write_atomically(mark, f"{clock.now}\n")
        return clock
    return replace(clock, now=max(clock.now, seen))


def leftovers(config: Config, slot: Slot, layout: Layout) -> tuple[str, ...]:
    """What the slot's last job left: processes of its user, memory and processes on its GPUs, its disk."""
    gpus = select_gpus(read_nvml().gpus, slot.gpus) if slot.gpus else ()
    disk = layout.disk(slot.index)
    return (
        *processes_of(slot.uid),
        *(text for gpu in gpus for text in _held(gpu, config.doctor.max_gpu_memory_used_mib * MIB)),
        *((f"{disk} is still mounted",) if is_mounted(disk) else ()),
    )


def processes_of(uid: int, proc: Path = Path("/proc")) -> tuple[str, ...]:
    """Living processes of a user, by real, effective, saved or file-system id, whatever cgroup they fled to."""
    found = []
    for status in proc.glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except (OSError, UnicodeDecodeError):
            continue  # it ended meanwhile
        if str(uid) in fields["Uid"].split() and not fields["State"].strip().startswith(("Z", "X")):
            found.append(f"pid {status.parent.name} {fields['Name'].strip()}")
    return tuple(sorted(found))


def _held(gpu: Gpu, allowed: int) -> list[str]:
    held = [f"pid {p.pid} {p.name or '?'} on gpu{gpu.index}" for p in gpu.processes]
    if gpu.memory_used is not None and gpu.memory_used > allowed:
        held.append(f"{gpu.memory_used // MIB} MiB in use on gpu{gpu.index}")
    return held


def is_mounted(place: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Is a file system mounted at `place`? The fifth field of mountinfo(5) is the mount point."""
    return any(line.split()[4] == str(place) for line in mounts.read_text().splitlines())
