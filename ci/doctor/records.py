"""The doctor's request, the state of a host, and the diagnosis. A HostState is plain values: tests can replay it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ci.nvml import Nvml

Status = Literal["ok", "warn", "fail", "skip"]
MIB = 1 << 20
GIB = 1 << 30
RUNNER_MANIFEST = "hub-runner.json"
"""The file beside an unpacked runner with its RunnerInstall."""


@dataclass(frozen=True)
class Check:
    """One check of the host: what was seen (`value`), what should be (`expected`), what to do (`fix`).

    `unmade`: it was asked for, but could not be made.
    """

    name: str
    status: Status
    value: str
    expected: str = ""
    fix: str = ""
    unmade: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """Every check, and the identity of the host. `fit` is False if a check failed."""

    fit: bool
    checks: tuple[Check, ...]
    host: Mapping[str, str] = field(default_factory=dict)
    schema: int = 1

    @property
    def exit_code(self) -> int:
        """0 if the host is fit, 3 (infrastructure) if it is not."""
        return 0 if self.fit else 3

    @property
    def reasons(self) -> tuple[str, ...]:
        """One line for each failed check."""
        return tuple(f"{check.name}: {check.value}" for check in self.checks if check.status == "fail")


@dataclass(frozen=True)
class DoctorRequest:
    """What must be true of this host.

    `gpus`: their number; None means as many as the PCI bus shows (and at least one), 0 a host without GPUs.
    `only`: device minors, the N of /dev/nvidiaN, if only the GPUs of one slot are checked; empty means all.
    `strict`: a check that was asked for but could not be made counts as failed, and so do missing tools.
    `isolation`: "required" makes a sandbox that does not start a failure, "none" asks for none. `tools`: ask for what
    builds a subject. `images`: some environments are container images.
    `python`: an interpreter that may have torch; None means this one. Sizes are in bytes, times in seconds.
    """

    gpus: int | None = None
    only: tuple[int, ...] = ()
    min_driver: str = ""
    max_memory_used: int = 512 * MIB
    paths: tuple[str, ...] = ()
    min_free: int = 20 * GIB
    min_free_inodes: int = 100_000
    runner: str | None = None
    store: str | None = None
    job_user: str | None = None
    endpoint: str = "https://huggingface.co"
    offline: bool = False
    strict: bool = False
    isolation: Literal["required", "auto", "none"] = "auto"
    tools: bool = True
    images: bool = False
    python: str | None = None
    timeout: float = 120.0


@dataclass(frozen=True)
class Xid:
    """One Xid report of the kernel log; `pci` as the kernel writes it."""

    code: int
    pci: str
    text: str


@dataclass(frozen=True)
class KernelLog:
    """The Xid reports since boot; `problem` says why the log could not be read."""

    xids: tuple[Xid, ...] = ()
    source: str = ""
    problem: str = ""


@dataclass(frozen=True)
class GpuComputation:
    """The results of a small computation on each GPU, by UUID: "" if every number was correct, else what was wrong.

    `problem` says why there are none, `absent` why the computation was not possible here.
    """

    devices: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    problem: str = ""
    absent: str = ""


@dataclass(frozen=True)
class Disk:
    """Bytes left for an unprivileged user on the file system of `path`; `inodes` is None if it has no such limit."""

    path: str
    free: int
    total: int
    inodes: int | None
    problem: str = ""


@dataclass(frozen=True)
class Clock:
    """Unix time, whether the kernel says that a time service sets it, and seconds ahead of a server's clock."""

    now: float
    synchronised: bool | None = None
    skew: float | None = None


@dataclass(frozen=True)
class RunnerInstall:
    """The unpacked GitHub runner: its version, when that version was published (ISO 8601), its archive's sha256.

    `newest_at` is when it was last known to be the newest release, which is never too old.
    """

    version: str
    published_at: str
    sha256: str
    newest_at: str = ""


@dataclass(frozen=True)
class ProbeAnswer:
    """The answer of a yes-or-no probe. `ok` None means that it could not be made; `text` says why."""

    ok: bool | None
    text: str


@dataclass(frozen=True)
class SandboxState:
    """What a sandbox needs. Numbers are from /proc/sys, None where the kernel does not have them.

    `covered` are the mounts over parts of /proc, `apparmor_profile` is the file that names bubblewrap.
    """

    as_root: bool
    program: str
    version: str
    start: ProbeAnswer
    userns_clone: int | None = None
    max_user_namespaces: int | None = None
    apparmor_restricts: int | None = None
    apparmor_profile: str = ""
    covered: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuildTools:
    """What builds and installs a subject, each with its version; "" for a tool that is not there.

    `managed_python`: the interpreter that uv has or would bring, where the machine has none that is new enough.
    `image_programs`: what fetches and unpacks container images, all of it or "".
    `template_engine`: the second engine of chat templates, which needs node; where there is none, `no_template_engine`
    says why.
    """

    git: str
    cc: str
    cxx: str
    headers: ProbeAnswer
    python: str
    installer: str
    managed_python: str = ""
    image_programs: str = ""
    template_engine: str = ""
    no_template_engine: str = ""


@dataclass(frozen=True)
class HostState:
    """All that was seen of a host. A part that was not asked for is None."""

    nvml: Nvml
    pci: tuple[str, ...]
    kernel: KernelLog
    driver_computation: GpuComputation
    torch_computation: GpuComputation
    disks: tuple[Disk, ...]
    clock: Clock
    runner: RunnerInstall | ProbeAnswer | None = None
    store: ProbeAnswer | None = None
    hub: ProbeAnswer | None = None
    proxy: ProbeAnswer | None = None
    sandbox: SandboxState | None = None
    tools: BuildTools | None = None
    provisions: tuple[tuple[str, ProbeAnswer], ...] = ()
