"""What the slots' pages say: for people, for Prometheus, for the issue on GitHub."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

from ci.records import to_dict
from hub_runner.state import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hub_runner.config import Config
    from hub_runner.state import Book


def status(config: Config, books: Sequence[Book]) -> list[dict[str, Any]]:
    """Each slot: number, GPUs, labels, what the operator wants, and its page."""
    return [
        {
            "slot": slot.index,
            "gpus": list(slot.gpus),
            "labels": list(slot.labels),
            "drained": book.drained,
            **to_dict(book.read()),
        }
        for slot, book in zip(config.places, books, strict=True)
    ]


def told(config: Config, books: Sequence[Book]) -> str:
    """The issue's text: which slots are out of order and why; "" when none is. Stable while nothing changes."""
    sick = [(slot, state) for slot, book in zip(config.places, books, strict=True) if (state := book.read()).reason]
    out = [(slot, state) for slot, state in sick if state.phase == "quarantined"]
    lines = [f"- slot {slot.index} (GPUs {', '.join(map(str, slot.gpus))}): {state.reason}" for slot, state in out]
    if not lines:
        return ""
    left = len(config.places) - len(out)
    head = f"{len(out)} of {len(config.places)} slots are in quarantine; {left} can take jobs."
    help_ = (
        "It is examined again by itself; `hub-runner status` on the host says more, `hub-runner resume` looks at once."
    )
    return "\n".join([head, "", *lines, "", help_])


def metrics(config: Config, books: Sequence[Book], *, strangers: int, now: float) -> str:
    """Prometheus text format: https://prometheus.io/docs/instrumenting/exposition_formats/"""
    pages = [(slot.index, book.drained, book.read()) for slot, book in zip(config.places, books, strict=True)]
    phases = get_args(Phase)
    lines = [
        "# HELP hub_runner_slot_phase 1 for the phase that the slot is in.",
        "# TYPE hub_runner_slot_phase gauge",
        *(
            f'hub_runner_slot_phase{{slot="{index}",phase="{phase}"}} {int(state.phase == phase)}'
            for index, _, state in pages
            for phase in phases
        ),
        "# HELP hub_runner_slot_phase_seconds How long it has been in it.",
        "# TYPE hub_runner_slot_phase_seconds gauge",
        *(f'hub_runner_slot_phase_seconds{{slot="{i}"}} {age(state.since, now):.0f}' for i, _, state in pages),
        "# HELP hub_runner_slot_drained 1 when the operator wants it empty.",
        "# TYPE hub_runner_slot_drained gauge",
        *(f'hub_runner_slot_drained{{slot="{index}"}} {int(drained)}' for index, drained, _ in pages),
        "# HELP hub_runner_jobs_total Runners that lived to their end.",
        "# TYPE hub_runner_jobs_total counter",
        *(f'hub_runner_jobs_total{{slot="{index}"}} {state.jobs}' for index, _, state in pages),
        "# HELP hub_runner_strangers Online registrations under this host's name that no slot knows.",
        "# TYPE hub_runner_strangers gauge",
        f"hub_runner_strangers {strangers}",
        "# HELP hub_runner_last_tick_seconds Unix time of this text: it stands still when the supervisor does.",
        "# TYPE hub_runner_last_tick_seconds gauge",
        f"hub_runner_last_tick_seconds {now:.0f}",
    ]
    return "\n".join(lines) + "\n"


def age(since: str, now: float) -> float:
    """Seconds since an ISO 8601 time; 0 where there is none."""
    return max(0.0, now - datetime.fromisoformat(since).timestamp()) if since else 0.0
