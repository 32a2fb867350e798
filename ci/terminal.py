"""Output for a terminal: tables and the progress of a fetch."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.table import Table

    from ci.hub.byte_plan import BytePlan
    from ci.hub.fetch import Checkpoint
    from ci.hub.inventory import StoreEntry
    from ci.hub.progress import Progress
    from ci.models import HubModel


def make_models_table(models: Sequence[HubModel]) -> Table:
    """Make the table of the registry."""
    table = _make_table("model", "Hub id", "format", "layers", "groups")
    for model in models:
        gated = " (gated)" if model.gated else ""
        table.add_row(
            model.name,
            model.model_id + gated,
            model.checkpoint_format,
            model.part,
            " ".join(model.groups),
        )
    return table


def make_checkpoints_table(checkpoints: Mapping[str, Checkpoint]) -> Table:
    """Make the table of fetched checkpoints. Paths have no column: a folded path cannot be copied."""
    titles = ("model", "revision", "layers", "kept", "moved", "requests", "seconds", "files not verified upstream")
    table = _make_table(*titles)
    for name, c in checkpoints.items():
        moved = "hit" if c.cache == "hit" else format_size(c.bytes_fetched)
        layers, unverified = f"{c.layers} of {c.layers_upstream}", len(c.not_verified_upstream)
        layers += f" ({', '.join(map(str, c.picked))})" if c.picked else ""
        layers += f", {c.slice}" if str(c.slice) else ""
        figures = (format_size(c.bytes_kept), moved, str(c.requests), f"{c.seconds:.1f}")
        table.add_row(name, c.revision[:12], layers, *figures, str(unverified) if unverified else "-")
    return table


def make_bytes_table(plans: Sequence[BytePlan]) -> Table:
    """Make the table of what each model would download: whole, its layers, and their slice."""
    table = _make_table("model", "layers", "slice", "whole", "layers only", "to fetch", "read to know")
    for plan in plans:
        if plan.problem:
            table.add_row(plan.name, "-", plan.slice, "-", "-", plan.problem, "-")
            continue
        layers = f"{plan.layers or 'auto'} of {plan.layers_upstream}"
        sizes = (format_size(size) for size in (plan.whole, plan.kept, plan.sliced, plan.received))
        table.add_row(plan.name, layers, plan.slice or "-", *sizes)
    totals = (format_size(sum(getattr(plan, key) for plan in plans)) for key in ("whole", "kept", "sliced", "received"))
    table.add_row("all", "", "", *totals)
    return table


def make_entries_table(entries: Sequence[StoreEntry]) -> Table:
    """Make the table of the store; without paths, as above."""
    reasons = any(e.reason for e in entries)
    table = _make_table("model", "revision", "layers", "size", "state", *(["why"] if reasons else []))
    for e in entries:
        why = [e.reason] if reasons else []
        table.add_row(e.model_id, e.revision[:12], str(e.layers), format_size(e.bytes), e.state, *why)
    return table


@contextmanager
def fetch_progress() -> Iterator[Callable[[str, Progress], None] | None]:
    """Show one progress line for each model on stderr; yield None if stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as ProgressBars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with ProgressBars(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress_bars:
        tasks: dict[str, int] = {}

        def update(name: str, state: Progress) -> None:
            task = tasks.setdefault(name, -1)
            if task < 0:
                task = tasks[name] = progress_bars.add_task(name, total=state.total)
            progress_bars.update(task, completed=state.done, total=state.total)  # type: ignore[arg-type]

        yield update


def _make_table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
