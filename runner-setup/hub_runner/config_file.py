"""Reads the TOML file of a host and checks its values together.

Names from this file end up in units and firewall rules, so the checks are strict.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.records import read_dict
from hub_runner.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import AllowedConnection, EgressSettings

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
WORKFLOW = re.compile(r"[\w.-]+/[\w.-]+/\.github/workflows/[\w.-]+\.ya?ml@refs/\S+")
FORBIDDEN_EVENTS = ("pull_request", "pull_request_target", "push", "merge_group", "workflow_run")
DESCRIPTION = re.compile(r"[a-z0-9][a-z0-9_-]*|(?!/|.*\.\.)[\w./-]+\.toml")
PROXY = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+/?")
CERTIFICATES = re.compile(r"(?!.*/\.\.?(?:/|$))(?:/[\w.-]+)+")
HIDDEN = ("/home", "/root", "/run", "/tmp", "/var", "/dev", "/boot", "/etc/hub-runner")  # noqa: S108
"""Where one of the units sees another file than the host has, or none."""
METADATA = ipaddress.ip_network("169.254.169.254/32")
DURATIONS = ("max_job_minutes", "max_idle_minutes", "quarantine_minutes", "stop_seconds")
MAX_SLOTS = 64
UIDS = range(60578, 61184 - MAX_SLOTS)
"""User ids that no distribution and no part of systemd gives out: https://systemd.io/UIDS-GIDS/"""


def load_config(path: Path) -> Config:
    """Read and check the file. Raises RequestError with file, key and mistake."""
    try:
        return parse_config(path.read_text(encoding="utf-8"), what=str(path))
    except (OSError, UnicodeDecodeError) as failure:
        raise RequestError(f"{path}: {getattr(failure, 'strerror', None) or failure}") from None


def parse_config(text: str, *, what: str) -> Config:
    """Parse and check TOML text; `what` names it in errors."""
    try:
        config = read_dict(Config, tomllib.loads(text), what=what)
    except tomllib.TOMLDecodeError as invalid:
        raise RequestError(f"{what}: {invalid}") from None
    for problem in find_problems(config):
        raise RequestError(f"{what}: {problem}")
    return config


def find_problems(config: Config) -> tuple[str, ...]:
    """Return one line for each value that is wrong or contradicts another."""
    checks = (_check_names, _check_slots, _check_limits, _check_environments, _check_proxy)
    results = (*(problem for check in checks for problem in check(config)), *_check_egress(config.egress))
    return tuple(problem for problem in results if problem)


def _check_names(config: Config) -> tuple[str | None, ...]:
    github, runner = config.github, config.runner
    one_owner = bool(github.repository) != bool(github.organization)
    organization = github.organization.lower()
    return (
        "github.status_issue needs github.repository" if github.status_issue and not github.repository else None,
        None if NAME.fullmatch(config.host.name) else f"host.name: use a-z, 0-9 and -, not {config.host.name!r}",
        None if one_owner else "github: give either repository or organization",
        None
        if not github.repository or REPOSITORY.fullmatch(github.repository)
        else "github.repository: not owner/name",
        None if not organization or NAME.fullmatch(organization) else "github.organization: not a GitHub login",
        None if re.fullmatch(r"https?://[^/\s]+(/\S*)?", github.api) else "github.api: not a URL",
        None if re.fullmatch(r"[A-Za-z0-9.]+", github.app_id) else "github.app_id: not the id of a GitHub App",
        *(None if LABEL.fullmatch(each) else f"runner.labels: {each!r} is not a label" for each in runner.labels),
        None if runner.labels else "runner.labels: give at least one label of your own",
        None if re.fullmatch(r"/[\w./-]+", runner.store) else "runner.store: give an absolute path without spaces",
        *_check_admission(config),
    )


def _check_environments(config: Config) -> tuple[str | None, ...]:
    build, repository = config.environments.build, config.github.repository
    return (
        *(
            None
            if DESCRIPTION.fullmatch(each)
            else f"environments.build: {each!r} is no name and no path of a TOML file"
            for each in build
        ),
        "environments.build: a file needs github.repository"
        if not repository and any(each.endswith(".toml") for each in build)
        else None,
    )


def _check_proxy(config: Config) -> tuple[str | None, ...]:
    proxy = config.proxy
    wrong = [each for each in proxy.without if not re.fullmatch(r"[A-Za-z0-9.:/*_-]+", each)]
    return (
        None if not proxy.url or PROXY.fullmatch(proxy.url) else "proxy.url: give http://host:port, without a password",
        f"proxy.without: {wrong[0]!r} is neither a name nor an address" if wrong else None,
        _check_certificates(config),
    )


def _check_certificates(config: Config) -> str | None:
    """Report a path of certificates that is none, or that the units do not see."""
    file = config.proxy.certificates
    if file and not CERTIFICATES.fullmatch(file):
        return "proxy.certificates: give an absolute path without spaces"
    if hidden := next((place for place in (*HIDDEN, config.runner.store) if file.startswith(f"{place}/")), None):
        return f"proxy.certificates: jobs see nothing of {hidden}: put the file below /etc/ssl or /usr/local/share"
    return None


def _check_admission(config: Config) -> tuple[str | None, ...]:
    workflows, events = config.admission.workflows, config.admission.events
    return (
        *(
            None
            if WORKFLOW.fullmatch(each)
            else f"admission.workflows: {each!r} is not owner/repo/.github/workflows/file@ref"
            for each in workflows
        ),
        None if workflows and events else "admission: no job could start; give workflows and events",
        *(
            f"admission.events: {each} runs a pull request's own workflow"
            for each in FORBIDDEN_EVENTS
            if each in events
        ),
    )


def _check_slots(config: Config) -> tuple[str | None, ...]:
    gpus = [gpu for spec in config.slots for gpu in spec.gpus]
    shared = sorted({gpu for gpu in gpus if gpus.count(gpu) > 1})
    return (
        None if 0 < len(config.slots) <= MAX_SLOTS else f"slots: give 1 to {MAX_SLOTS}",
        None
        if all(bool(s.gpus) != s.writes_store for s in config.slots)
        else "slots: give either gpus, or writes_store",
        None if sum(s.writes_store for s in config.slots) <= 1 else "slots: at most one slot may write the store",
        None
        if all(s.gpus or not s.fills_compile_cache for s in config.slots)
        else "slots: fills_compile_cache needs gpus",
        None
        if sum(s.fills_compile_cache for s in config.slots) <= 1
        else "slots: at most one slot may fill the compile cache",
        None if not shared else f"slots: /dev/nvidia{shared[0]} belongs to two slots",
        None if all(0 <= gpu < 256 for gpu in gpus) else "slots: gpus are the N of /dev/nvidiaN, 0 to 255",
        None if config.host.uid_base in UIDS else f"host.uid_base: not within {UIDS.start} to {UIDS.stop - 1}",
    )


def _check_limits(config: Config) -> tuple[str | None, ...]:
    positive: dict[str, int] = {
        **{f"limits.{name}": value for name, value in vars(config.limits).items()},
        **{f"runner.{name}": getattr(config.runner, name) for name in DURATIONS},
        "janitor.runner_versions - 1": config.janitor.runner_versions - 1,
        "environments.keep_days": config.environments.keep_days,
        "admission.max_event_age_hours": config.admission.max_event_age_hours,
    }
    return tuple(None if value > 0 else f"{name}: {value} is not positive" for name, value in positive.items())


def _check_egress(egress: EgressSettings) -> tuple[str | None, ...]:
    return tuple(_check_connection(allow) for allow in egress.allow)


def _check_connection(allow: AllowedConnection) -> str | None:
    try:
        network = ipaddress.ip_network(allow.address, strict=True)
    except ValueError as invalid:
        return f"egress.allow: {invalid}"
    if network.version == METADATA.version and network.overlaps(METADATA):
        return f"egress.allow: {allow.address} contains the metadata address, which gives away the host's identity"
    return None if 0 < allow.port < 65536 else f"egress.allow: port {allow.port} is not within 1 to 65535"
