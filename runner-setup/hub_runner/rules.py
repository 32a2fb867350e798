"""What must hold among the values of the host's file. Names end up in units and firewall rules, so they are strict."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub_runner.config import Allow, Config, Egress

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
WORKFLOW = re.compile(r"[\w.-]+/[\w.-]+/\.github/workflows/[\w.-]+\.ya?ml@refs/\S+")
FORBIDDEN = ("pull_request", "pull_request_target", "push", "merge_group", "workflow_run")
METADATA = ipaddress.ip_network("169.254.169.254/32")
TIMES = ("max_job_minutes", "max_idle_minutes", "quarantine_minutes", "stop_seconds")
MOST_SLOTS = 64
UIDS = range(60578, 61184 - MOST_SLOTS)
"""Ids that no distribution and no part of systemd hands out: https://systemd.io/UIDS-GIDS/"""


def problems(config: Config) -> tuple[str, ...]:
    """What is wrong with the values taken together. Names end up in units and firewall rules, so they are strict."""
    found = (*_names(config), *_slots(config), *_limits(config), *_egress(config.egress))
    return tuple(problem for problem in found if problem)


def _names(config: Config) -> tuple[str | None, ...]:
    github, runner, events = config.github, config.runner, config.admission.events
    named = bool(github.repository) != bool(github.organization)
    return (
        "github.status_issue needs github.repository" if github.status_issue and not github.repository else None,
        None if NAME.fullmatch(config.host.name) else f"host.name: {config.host.name!r} is not of a-z, 0-9 and -",
        None if named else "github: give either repository or organization",
        None
        if not github.repository or REPOSITORY.fullmatch(github.repository)
        else "github.repository: not owner/name",
        None
        if not github.organization or NAME.fullmatch(github.organization.lower())
        else "github.organization: no login",
        None if re.fullmatch(r"https?://[^/\s]+(/\S*)?", github.api) else "github.api: not a URL",
        None if re.fullmatch(r"[A-Za-z0-9.]+", github.app_id) else "github.app_id: not an id",
        *(None if LABEL.fullmatch(label) else f"runner.labels: {label!r}" for label in runner.labels),
        None if runner.labels else "runner.labels: give at least one of your own",
        None if re.fullmatch(r"/[\w./-]+", runner.store) else "runner.store: an absolute path without blanks",
        *(
            None
            if WORKFLOW.fullmatch(flow)
            else f"admission.workflows: {flow!r} is not owner/repo/.github/workflows/file@ref"
            for flow in config.admission.workflows
        ),
        None if config.admission.workflows and config.admission.events else "admission: nothing could ever run",
        *(f"admission.events: {each} runs a pull request's own workflow" for each in FORBIDDEN if each in events),
    )


def _slots(config: Config) -> tuple[str | None, ...]:
    every = [gpu for spec in config.slots for gpu in spec.gpus]
    twice = sorted({gpu for gpu in every if every.count(gpu) > 1})
    return (
        None if 0 < len(config.slots) <= MOST_SLOTS else f"slots: give 1 to {MOST_SLOTS}",
        None if all(bool(s.gpus) != s.writes_store for s in config.slots) else "slots: either gpus, or writes_store",
        None if sum(s.writes_store for s in config.slots) <= 1 else "slots: one slot at most writes the store",
        None if not twice else f"slots: /dev/nvidia{twice[0]} belongs to two slots",
        None if all(0 <= gpu < 256 for gpu in every) else "slots: gpus are the N of /dev/nvidiaN",
        None if config.host.uid_base in UIDS else f"host.uid_base: not within {UIDS.start} to {UIDS.stop - 1}",
    )


def _limits(config: Config) -> tuple[str | None, ...]:
    positive: dict[str, int] = {
        **{f"limits.{name}": value for name, value in vars(config.limits).items()},
        **{f"runner.{name}": getattr(config.runner, name) for name in TIMES},
        "janitor.runner_versions - 1": config.janitor.runner_versions - 1,
        "admission.max_event_age_hours": config.admission.max_event_age_hours,
    }
    return tuple(None if value > 0 else f"{name}: {value} is not positive" for name, value in positive.items())


def _egress(egress: Egress) -> tuple[str | None, ...]:
    return tuple(_way_out(allow) for allow in egress.allow)


def _way_out(allow: Allow) -> str | None:
    try:
        network = ipaddress.ip_network(allow.address, strict=True)
    except ValueError as wrong:
        return f"egress.allow: {wrong}"
    if network.version == METADATA.version and network.overlaps(METADATA):
        return f"egress.allow: {allow.address} holds the metadata address, which gives the host's identity away"
    return None if 0 < allow.port < 65536 else f"egress.allow: port {allow.port}"
