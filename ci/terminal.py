"""Output for a terminal: tables, sizes and the progress of a fetch."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.table import Table

    from ci.hub.byte_plan import BytePlan
    from ci.hub.fetch import Checkpoint
    from ci.hub.inventory import StoreEntry
    from ci.hub.progress import Progress
    from ci.models import HubModel

_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """Return the bytes of `500MB`, `50G`, `1.5TB` (powers of 1000) or `7GiB` (powers of 1024).

    Raises RequestError for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if not match:
        raise RequestError(f"size '{text}': expected a number with a unit, like 500MB or 50GB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** _POWERS[match[2].upper()])


def format_size(count: float) -> str:
    """Format a number of bytes in decimal units, as disks and the Hub use them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


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
    table = _make_table("model", "revision", "layers", "kept", "moved", "requests", "seconds")
    for name, c in checkpoints.items():
        moved = "hit" if c.cache == "hit" else format_size(c.bytes_fetched)
        layers = f"{c.layers} of {c.layers_upstream}"
        layers += f" ({', '.join(map(str, c.picked))})" if c.picked else ""
        layers += f", {c.slice}" if str(c.slice) else ""
        table.add_row(
            name, c.revision[:12], layers, format_size(c.bytes_kept), moved, str(c.requests), f"{c.seconds:.1f}"
        )
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
    table = _make_table("model", "revision", "layers", "size", "state")
    for e in entries:
        table.add_row(e.model_id, e.revision[:12], str(e.layers), format_size(e.bytes), e.state)
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
