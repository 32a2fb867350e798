"""The settings of one host as frozen records. Everything else is derived from them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ci.errors import RequestError
from ci.records import STRICT

SYSTEM_LABELS = ("self-hosted", "linux")
STORE_LABEL, NIGHTLY_LABEL = "hub-tests-store", "hub-tests-nightly"
"""A just-in-time runner has the labels of its registration and no others."""


@dataclass(frozen=True)
class HostSettings:
    """The host and the user ids of its slots: slot N runs as `uid_base` + N."""

    __pydantic_config__: ClassVar[Any] = STRICT

    name: str
    arch: Literal["x64", "arm64"] = "x64"
    uid_base: int = 60700


@dataclass(frozen=True)
class GitHubSettings:
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
class RunnerSettings:
    """Settings that all runners of this host share."""

    __pydantic_config__: ClassVar[Any] = STRICT

    labels: tuple[str, ...]
    store: str
    max_job_minutes: int = 180
    max_idle_minutes: int = 60
    quarantine_minutes: int = 10
    stop_seconds: int = 90


@dataclass(frozen=True)
class SlotSpec:
    """One slot of the file: the GPUs that its jobs may open, as the N of /dev/nvidiaN.

    `writes_store`: a slot without GPUs that may write the store. It is for the job that fetches checkpoints.
    `fills_compile_cache`: a slot for the nightly run alone, which may keep compiled code for the others.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    gpus: tuple[int, ...] = ()
    writes_store: bool = False
    fills_compile_cache: bool = False


@dataclass(frozen=True)
class JobLimits:
    """Limits of one slot's job.

    `tmp_gib`: /tmp and /dev/shm, each in memory. `disk_gib`: home, work directory and TMPDIR together.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    memory_gib: int
    cpus: int
    processes: int = 4096
    disk_gib: int = 100
    tmp_gib: int = 8


@dataclass(frozen=True)
class DoctorSettings:
    """What the doctor requires of this host before a runner is offered."""

    __pydantic_config__: ClassVar[Any] = STRICT

    min_driver: str = ""
    min_free_gib: int = 50
    max_gpu_memory_used_mib: int = 512
    offline: bool = False
    python: str | None = None


@dataclass(frozen=True)
class AllowedConnection:
    """One address and port that jobs may connect to, in a private network or with mode "listed"."""

    __pydantic_config__: ClassVar[Any] = STRICT

    address: str
    port: int
    why: str
    protocol: Literal["tcp", "udp"] = "tcp"

    @property
    def network(self) -> str:
        """The address as a network; a single address is a network of one."""
        return str(ipaddress.ip_network(self.address))


@dataclass(frozen=True)
class EgressSettings:
    """Where jobs may connect: all public addresses, or the listed ones only.

    `closed_ports`: ports of host services on loopback that jobs may not reach.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    mode: Literal["internet", "listed"] = "internet"
    allow: tuple[AllowedConnection, ...] = ()
    closed_ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class AdmissionSettings:
    """Which jobs may start. The runner checks this itself, whatever the workflow says.

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
class JanitorSettings:
    """How much the host's own directories may hold."""

    __pydantic_config__: ClassVar[Any] = STRICT

    store_gib: int = 500
    runner_versions: int = 2
    logs_gib: int = 2
    logs_days: int = 30


@dataclass(frozen=True)
class EnvironmentsSettings:
    """The subjects' environments that this host builds and lends to its jobs.

    `build`: names that hub-tests knows, and paths of TOML files in the default branch of `github.repository`.
    `images`: some of them are container images, so their unit may make a sandbox.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    build: tuple[str, ...] = ()
    images: bool = False
    keep_days: int = 30


@dataclass(frozen=True)
class ProxySettings:
    """The proxy through which this host reaches the internet: its URL, and what is reached without it.

    `certificates`: a PEM file of all authorities that the host's clients and jobs trust, for a proxy that breaks TLS.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    url: str = ""
    without: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    certificates: str = ""


@dataclass(frozen=True)
class KubernetesSettings:
    """The same runners on a cluster, through actions-runner-controller.

    `environments_claim`: a volume of environments. `compile_cache_claim`: one of compiled code.
    `sandbox`: let jobs make user namespaces, which bubblewrap needs. `seccomp_profile`: the profile of such pods, a
    file below the kubelet's seccomp directory; without one they have none.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    namespace: str
    secret: str
    image: str
    store_claim: str
    environments_claim: str = ""
    compile_cache_claim: str = ""
    max_runners: int = 4
    min_runners: int = 0
    sandbox: bool = True
    seccomp_profile: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Slot:
    """One slot, which runs one job at a time: its number, GPUs, user and labels."""

    index: int
    gpus: tuple[int, ...]
    uid: int
    labels: tuple[str, ...]
    writes_store: bool = False
    fills_compile_cache: bool = False

    @property
    def user(self) -> str:
        """The user of the job. It has no shell, no home and no group but its own."""
        return f"hub-slot-{self.index}"

    @property
    def unit(self) -> str:
        """The systemd unit of the slot's job."""
        return f"hub-runner-slot-{self.index}.service"


@dataclass(frozen=True)
class Config:
    """The whole TOML file."""

    __pydantic_config__: ClassVar[Any] = STRICT

    host: HostSettings
    github: GitHubSettings
    runner: RunnerSettings
    slots: tuple[SlotSpec, ...]
    limits: JobLimits
    admission: AdmissionSettings
    doctor: DoctorSettings = DoctorSettings()
    egress: EgressSettings = EgressSettings()
    janitor: JanitorSettings = JanitorSettings()
    environments: EnvironmentsSettings = EnvironmentsSettings()
    proxy: ProxySettings = ProxySettings()
    kubernetes: KubernetesSettings | None = None

    @property
    def resolved_slots(self) -> tuple[Slot, ...]:
        """The slots with their number, user and labels."""
        return tuple(self._resolve_slot(index, spec) for index, spec in enumerate(self.slots))

    def _resolve_slot(self, index: int, spec: SlotSpec) -> Slot:
        labels = self.runner_labels(len(spec.gpus))
        if spec.writes_store:
            labels = self.own_labels(STORE_LABEL)
        elif spec.fills_compile_cache:
            labels = self.own_labels(NIGHTLY_LABEL)
        uid = self.host.uid_base + index
        return Slot(index, spec.gpus, uid, labels, spec.writes_store, spec.fills_compile_cache)

    def own_labels(self, name: str) -> tuple[str, ...]:
        """Return the labels of a slot for one kind of job, which a job that asks for any GPU does not match."""
        return (*SYSTEM_LABELS, self.host.arch, name)

    def runner_labels(self, gpus: int) -> tuple[str, ...]:
        """Return the labels of a runner with `gpus` GPUs, on this host and on the cluster."""
        return (*SYSTEM_LABELS, self.host.arch, *self.runner.labels, f"gpus-{gpus}")

    def get_slot(self, index: int) -> Slot:
        """Return the slot with this number. Raises RequestError when there is none."""
        if 0 <= index < len(self.slots):
            return self.resolved_slots[index]
        raise RequestError(f"there is no slot {index}: choose one of 0 to {len(self.slots) - 1}")
