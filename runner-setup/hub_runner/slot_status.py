"""Status of all slots: rows for people, metrics for Prometheus, text for the issue on GitHub."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

from ci.records import to_dict
from hub_runner.slot_state import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hub_runner.config import Config
    from hub_runner.slot_state import SlotStateFile


def list_status(config: Config, state_files: Sequence[SlotStateFile]) -> list[dict[str, Any]]:
    """List number, GPUs, labels, drained and state of each slot."""
    return [
        {
            "slot": slot.index,
            "gpus": list(slot.gpus),
            "labels": list(slot.labels),
            "drained": state_file.drained,
            **to_dict(state_file.read()),
        }
        for slot, state_file in zip(config.resolved_slots, state_files, strict=True)
    ]


def format_issue(config: Config, state_files: Sequence[SlotStateFile]) -> str:
    """Return the issue's text about slots in quarantine; "" when there is none.

    The text stays the same while nothing changes.
    """
    states = [(slot, file.read()) for slot, file in zip(config.resolved_slots, state_files, strict=True)]
    quarantined = [(slot, state) for slot, state in states if state.phase == "quarantined" and state.reason]
    if not quarantined:
        return ""
    usable = len(states) - len(quarantined)
    lines = [
        f"- slot {slot.index} (GPUs {', '.join(map(str, slot.gpus))}): {state.reason}" for slot, state in quarantined
    ]
    head = f"{len(quarantined)} of {len(states)} slots are in quarantine; {usable} can take jobs."
    advice = (
        "Each is examined again after a while. On the host, `hub-runner status` shows more, and `hub-runner resume` "
        "examines at once."
    )
    return "\n".join([head, "", *lines, "", advice])


def format_metrics(config: Config, state_files: Sequence[SlotStateFile], *, unknown_runners: int, now: float) -> str:
    """Return metrics in Prometheus' text format.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    slots = [
        (slot.index, file.drained, file.read()) for slot, file in zip(config.resolved_slots, state_files, strict=True)
    ]
    phases = [
        (f'{{slot="{index}",phase="{phase}"}}', int(state.phase == phase))
        for index, _, state in slots
        for phase in get_args(Phase)
    ]
    seconds = [(f'{{slot="{index}"}}', round(seconds_since(state.since, now))) for index, _, state in slots]
    drained = [(f'{{slot="{index}"}}', int(drained)) for index, drained, _ in slots]
    jobs = [(f'{{slot="{index}"}}', state.jobs) for index, _, state in slots]
    lines = [
        *_format_metric("slot_phase", "gauge", "1 for the phase that the slot is in.", phases),
        *_format_metric("slot_phase_seconds", "gauge", "How long the slot has been in its phase.", seconds),
        *_format_metric("slot_drained", "gauge", "1 when the operator wants the slot empty.", drained),
        *_format_metric("jobs_total", "counter", "Runners that ran to their end.", jobs),
        *_format_metric(
            "strangers", "gauge", "Online runners under this host's name that no slot knows.", [("", unknown_runners)]
        ),
        *_format_metric(
            "last_tick_seconds",
            "gauge",
            "Unix time of this text; it stops when the supervisor stops.",
            [("", round(now))],
        ),
    ]
    return "\n".join(lines) + "\n"


def _format_metric(name: str, kind: str, text: str, samples: Iterable[tuple[str, int]]) -> list[str]:
    """Return the lines of one metric; each sample has its labels in braces and a value."""
    full = f"hub_runner_{name}"
    return [f"# HELP {full} {text}", f"# TYPE {full} {kind}", *(f"{full}{labels} {value}" for labels, value in samples)]


def seconds_since(since: str, now: float) -> float:
    """Return the seconds since an ISO 8601 time; 0 where the text is empty."""
    return max(0.0, now - datetime.fromisoformat(since).timestamp()) if since else 0.0
