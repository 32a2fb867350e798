"""The host's one TOML file as frozen records. Everything else is derived from them."""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ci.errors import RequestError
from ci.records import STRICT, read_dict
from hub_runner.rules import problems

if TYPE_CHECKING:
    from pathlib import Path

SYSTEM_LABELS = ("self-hosted", "linux")
STORE_LABEL = "hub-tests-store"
"""A just-in-time runner has the labels that it is minted with and no others."""


@dataclass(frozen=True)
class Host:
    """The machine."""

    __pydantic_config__: ClassVar[Any] = STRICT

    name: str
    arch: Literal["x64", "arm64"] = "x64"
    uid_base: int = 60700


@dataclass(frozen=True)
class GitHub:
    """Where runners are registered: a repository or an organization, through a GitHub App."""

    __pydantic_config__: ClassVar[Any] = STRICT

    app_id: str
    installation_id: int
    repository: str = ""
    organization: str = ""
    api: str = "https://api.github.com"
    url: str = "https://github.com"
    runner_group_id: int = 1
    status_issue: bool = False


@dataclass(frozen=True)
class Runner:
    """What every runner of this host has."""

    __pydantic_config__: ClassVar[Any] = STRICT

    labels: tuple[str, ...]
    store: str
    max_job_minutes: int = 180
    max_idle_minutes: int = 60
    quarantine_minutes: int = 10
    stop_seconds: int = 90


@dataclass(frozen=True)
class SlotSpec:
    """Device minors (the N of /dev/nvidiaN) that a slot's jobs may open.

    `writes_store`: no GPU, but the store may be written: for the one job that fetches checkpoints, of trusted code.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    gpus: tuple[int, ...] = ()
    writes_store: bool = False


@dataclass(frozen=True)
class Limits:
    """What one slot's job may use. `tmp_gib` is /tmp and /dev/shm, in memory; `disk_gib` home, work and TMPDIR."""

    __pydantic_config__: ClassVar[Any] = STRICT

    memory_gib: int
    cpus: int
    processes: int = 4096
    disk_gib: int = 100
    tmp_gib: int = 8


@dataclass(frozen=True)
class DoctorRules:
    """What the doctor demands of this host before a runner is offered."""

    __pydantic_config__: ClassVar[Any] = STRICT

    min_driver: str = ""
    min_free_gib: int = 50
    max_gpu_memory_used_mib: int = 512
    offline: bool = False
    python: str | None = None


@dataclass(frozen=True)
class Allow:
    """One way out that is open although it leads into a private network, or although the rest is closed."""

    __pydantic_config__: ClassVar[Any] = STRICT

    address: str
    port: int
    why: str
    protocol: Literal["tcp", "udp"] = "tcp"

    @property
    def network(self) -> str:
        """The address as a network, which a single address is too."""
        return str(ipaddress.ip_network(self.address))


@dataclass(frozen=True)
class Egress:
    """Where jobs may connect: everywhere public, or only to the list; and host services on loopback kept from them."""

    __pydantic_config__: ClassVar[Any] = STRICT

    mode: Literal["internet", "listed"] = "internet"
    allow: tuple[Allow, ...] = ()
    closed_ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Admission:
    """Which jobs may start: checked on the runner, whatever the workflow says.

    `store_jobs`: job ids that may run where the store can be written. `workflow_shas`, where given, pins the commits
    that the workflows may come from.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    events: tuple[str, ...]
    workflows: tuple[str, ...]
    command: str = "/run-hub-tests"
    associations: tuple[str, ...] = ("OWNER", "MEMBER", "COLLABORATOR")
    store_jobs: tuple[str, ...] = ("fetch",)
    workflow_shas: tuple[str, ...] = ()
    max_event_age_hours: int = 24


@dataclass(frozen=True)
class Janitor:
    """Budgets of the host's own directories."""

    __pydantic_config__: ClassVar[Any] = STRICT

    store_gib: int = 500
    runner_versions: int = 2
    logs_gib: int = 2
    logs_days: int = 30


@dataclass(frozen=True)
class Kubernetes:
    """The same runners on a cluster, through actions-runner-controller."""

    __pydantic_config__: ClassVar[Any] = STRICT

    namespace: str
    secret: str
    image: str
    store_claim: str
    max_runners: int = 4
    min_runners: int = 0
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Slot:
    """One place for one job: its number, its GPUs, its user and its labels."""

    index: int
    gpus: tuple[int, ...]
    uid: int
    labels: tuple[str, ...]
    writes_store: bool = False

    @property
    def user(self) -> str:
        """The job's user: no shell, no home of its own, no group but its own."""
        return f"hub-slot-{self.index}"

    @property
    def unit(self) -> str:
        """The systemd unit of the slot's job."""
        return f"hub-runner-slot-{self.index}.service"


@dataclass(frozen=True)
class Config:
    """The whole file."""

    __pydantic_config__: ClassVar[Any] = STRICT

    host: Host
    github: GitHub
    runner: Runner
    slots: tuple[SlotSpec, ...]
    limits: Limits
    admission: Admission
    doctor: DoctorRules = DoctorRules()
    egress: Egress = Egress()
    janitor: Janitor = Janitor()
    kubernetes: Kubernetes | None = None

    @property
    def places(self) -> tuple[Slot, ...]:
        """The slots with everything that follows from their number."""
        return tuple(self._slot(index, spec) for index, spec in enumerate(self.slots))

    def _slot(self, index: int, spec: SlotSpec) -> Slot:
        names = (*SYSTEM_LABELS, self.host.arch, STORE_LABEL) if spec.writes_store else self.labels(len(spec.gpus))
        return Slot(index, spec.gpus, self.host.uid_base + index, names, spec.writes_store)

    def labels(self, gpus: int) -> tuple[str, ...]:
        """The labels of a runner with so many GPUs, on this host and on the cluster alike."""
        return (*SYSTEM_LABELS, self.host.arch, *self.runner.labels, f"gpus-{gpus}")

    def slot(self, index: int) -> Slot:
        """One slot. Raises RequestError where there is none of that number."""
        if 0 <= index < len(self.slots):
            return self.places[index]
        raise RequestError(f"there is no slot {index}: this host has slots 0 to {len(self.slots) - 1}")


def load(path: Path) -> Config:
    """Read and check the file. Raises RequestError naming file, key and what is wrong."""
    try:
        return parse(path.read_text(encoding="utf-8"), what=str(path))
    except (OSError, UnicodeDecodeError) as failure:
        raise RequestError(f"{path}: {getattr(failure, 'strerror', None) or failure}") from None


def parse(text: str, *, what: str) -> Config:
    """TOML text to a Config; `what` names it in errors."""
    try:
        config = read_dict(Config, tomllib.loads(text), what=what)
    except tomllib.TOMLDecodeError as broken:
        raise RequestError(f"{what}: {broken}") from None
    for problem in problems(config):
        raise RequestError(f"{what}: {problem}")
    return config
