"""Output for a terminal: tables, sizes, and the progress of a fetch and of the suite."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ci.report.escape import one_line
from ci.report.number_format import format_duration
from ci.report.text_table import Column, FittingTable
from ci.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ci.conformance.checks import CheckResult
    from ci.hub.byte_plan import BytePlan
    from ci.hub.fetch import Checkpoint
    from ci.hub.inventory import StoreEntry
    from ci.hub.progress import Progress
    from ci.models import HubModel
    from ci.subjects.offer import SubjectOffer
    from ci.suite.progress import ProgressDisplay, ProgressEvent

MAX_SHOWN = 100
"""Characters of a test id, or of a phase, that are shown."""
MIN_SHOWN = 12
"""Characters of a test id that are shown in the narrowest terminal."""
MAX_SKIPPED = 20
"""Tests of a skipped chain that are named."""
STARTING = "the suite starts and imports its libraries"
"""What the live line says before the first test."""


def make_models_table(models: Sequence[HubModel]) -> FittingTable:
    """Make the table of the registry."""
    columns = (Column("model"), Column("Hub id"), Column("format", 1), Column("layers", 2), Column("groups"))
    rows = [
        (
            model.name,
            f"{model.model_id}{' (gated)' if model.gated else ''}",
            model.checkpoint_format,
            model.part,
            " ".join(model.groups),
        )
        for model in models
    ]
    return _make_table(columns, rows)


def make_offers_table(offers: Sequence[tuple[str, SubjectOffer]]) -> FittingTable:
    """Make the table of subjects by the name that `--subject` takes."""
    rows = []
    for name, offer in offers:
        variants = ", ".join(f"{variant.axis}={variant.name}" for variant in offer.variants)
        rows.append((name, ", ".join(offer.formats), variants or "none", "yes" if offer.gradients else "no"))
    return _make_table((Column("subject"), Column("formats"), Column("variants"), Column("trains", 1)), rows)


def print_check(result: CheckResult) -> None:
    """Print one line for a check of an adapter."""
    sign = {True: "✓", False: "✗", None: "○"}[result.passed]
    print(f"{sign} {one_line(result.name, MAX_SHOWN)}: {one_line(result.said, 4 * MAX_SHOWN)}", flush=True)


def make_checkpoints_table(checkpoints: Mapping[str, Checkpoint]) -> FittingTable:
    """Make the table of fetched checkpoints. Paths have no column: a folded path cannot be copied."""
    columns = (
        *(Column("model"), Column("revision", 2), Column("layers"), Column("kept", align="right")),
        *(Column("moved", align="right"), Column("requests", 4, "right"), Column("seconds", 3, "right")),
        Column("files not verified upstream", 1),
    )
    rows = []
    for name, c in checkpoints.items():
        moved = "hit" if c.cache == "hit" else format_size(c.bytes_fetched)
        layers, unverified = f"{c.layers} of {c.layers_upstream}", len(c.not_verified_upstream)
        layers += f" ({', '.join(map(str, c.picked))})" if c.picked else ""
        layers += f", {c.slice}" if str(c.slice) else ""
        figures = (format_size(c.bytes_kept), moved, str(c.requests), f"{c.seconds:.1f}")
        rows.append((name, c.revision[:12], layers, *figures, str(unverified) if unverified else "-"))
    return _make_table(columns, rows)


def make_bytes_table(plans: Sequence[BytePlan]) -> FittingTable:
    """Make the table of what each model would download: whole, its layers, and their slice."""
    columns = (
        *(Column("model"), Column("layers", 2), Column("slice", 3), Column("whole", align="right")),
        *(Column("layers only", 1, "right"), Column("to fetch", align="right"), Column("read to know", 4, "right")),
    )
    rows: list[tuple[str, ...]] = []
    for plan in plans:
        if plan.problem:
            rows.append((plan.name, "-", plan.slice, "-", "-", plan.problem, "-"))
            continue
        layers = f"{plan.layers or 'auto'} of {plan.layers_upstream}"
        sizes = (format_size(size) for size in (plan.whole, plan.kept, plan.sliced, plan.received))
        rows.append((plan.name, layers, plan.slice or "-", *sizes))
    totals = (format_size(sum(getattr(plan, key) for plan in plans)) for key in ("whole", "kept", "sliced", "received"))
    return _make_table(columns, [*rows, ("all", "", "", *totals)])


def make_entries_table(entries: Sequence[StoreEntry]) -> FittingTable:
    """Make the table of the store; without paths, as above."""
    reasons = any(entry.reason for entry in entries)
    columns = (
        *(Column("model"), Column("revision", 2), Column("layers", 1, "right"), Column("size", align="right")),
        *(Column("state"), *((Column("why"),) if reasons else ())),
    )
    rows = [
        (*_describe_entry(entry), format_size(entry.bytes), entry.state, *((entry.reason,) if reasons else ()))
        for entry in entries
    ]
    return _make_table(columns, rows)


def _describe_entry(entry: StoreEntry) -> tuple[str, str, str]:
    """Return model, revision and layers; of a model's own code, that it is code."""
    return entry.model_id, entry.revision[:12], "code" if entry.kind == "code" else str(entry.layers)


@contextmanager
def fetch_progress() -> Iterator[Callable[[str, Progress], None] | None]:
    """Show one progress line for each model on stderr; yield None if stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
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


TEST_SIGNS = {"passed": "✓", "failed": "✗", "skipped": "○"}
TEST_STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
TEST_WORDS = {"passed": "", "failed": " failed", "skipped": " did not run"}


def format_ended_test(event: ProgressEvent, width: int | None = None) -> str:
    """Format a test that has ended, as one line: `✓ test_conversion[mixtral] 12.3 s`.

    Where the line would be longer than `width`, the middle of the test's name is left out.
    """
    sign, seconds = TEST_SIGNS.get(event.outcome, "?"), format_duration(event.seconds)
    end = f"{TEST_WORDS.get(event.outcome, '')} {seconds}"
    return f"{sign} {_shorten(one_line(event.test, MAX_SHOWN), width, len(sign) + 1 + len(end))}{end}"


def _shorten(name: str, width: int | None, taken: int) -> str:
    """Leave out the middle of a name that does not fit beside what is taken."""
    room = max((width or len(name) + taken) - taken, MIN_SHOWN)
    return name if len(name) <= room else f"{name[: (room - 1) // 2]}…{name[len(name) - room // 2 :]}"


@dataclass
class SkippedChain:
    """The tests that an earlier failure skipped, kept until they can be told in one line."""

    tests: list[str] = field(default_factory=list)

    def take(self, event: ProgressEvent) -> bool:
        """Keep a test that did not run, and return whether it was one."""
        if event.event == "ended" and event.outcome == "skipped":
            self.tests.append(event.test)
            return True
        return False

    def tell(self) -> str:
        """Return the kept tests as one line, "" without any, and forget them."""
        tests, self.tests = self.tests, []
        if not tests:
            return ""
        names = ", ".join(one_line(test, MAX_SHOWN) for test in tests[:MAX_SKIPPED])
        more = f" and {len(tests) - MAX_SKIPPED} more" if len(tests) > MAX_SKIPPED else ""
        return f"{TEST_SIGNS['skipped']} {names}{more}{TEST_WORDS['skipped']}"


@dataclass
class PlainProgress:
    """Prints one line a test when it has ended, and one for those in a row that did not run, for logs."""

    stream: TextIO
    _skipped: SkippedChain = field(default_factory=SkippedChain)

    def show(self, event: ProgressEvent) -> None:
        """Print a test that has ended, before it those that did not run."""
        if self._skipped.take(event) or event.event not in ("ended", "finished"):
            return
        for line in (self._skipped.tell(), format_ended_test(event) if event.event == "ended" else ""):
            if line:
                print(line, file=self.stream, flush=True)

    def tick(self) -> None:
        """Do nothing: a log does not move."""


@dataclass
class LiveProgress:
    """Keeps one line at the bottom of a terminal, with time, test and phase; tests that have ended stay above it.

    What is printed to sys.stderr meanwhile appears above the line too.
    """

    live: Live
    clock: Callable[[], float] = time.monotonic
    _running: dict[str, tuple[float, str]] = field(default_factory=dict)
    _skipped: SkippedChain = field(default_factory=SkippedChain)

    def show(self, event: ProgressEvent) -> None:
        """Print a test that has ended, or change the line; the end of the suite removes it."""
        if event.test != STARTING:
            self._running.pop(STARTING, None)
        if event.event in ("finished", "ended"):
            self._running.pop(event.test, None)
            self._print_ended(event)
        else:
            since, _ = self._running.get(event.test, (self.clock(), ""))
            self._running[event.test] = (since, event.phase)
        if event.event == "finished":
            self._running.clear()
            self.live.stop()
        self.tick()

    def _print_ended(self, event: ProgressEvent) -> None:
        if self._skipped.take(event):
            return
        if chain := self._skipped.tell():
            self.live.console.print(Text(chain, TEST_STYLES["skipped"]))
        if event.event == "ended":
            line = format_ended_test(event, self.live.console.width)
            self.live.console.print(Text(line, TEST_STYLES.get(event.outcome, "")), no_wrap=True, overflow="ellipsis")

    def tick(self) -> None:
        """Write the line again with the time that has passed."""
        self.live.update(Text(self.format_line(), "dim", no_wrap=True, overflow="ellipsis"), refresh=True)

    def format_line(self) -> str:
        """Return the line: `12 s  test_conversion[mixtral]: convert, import`; "" where no test runs.

        In a narrow terminal the test's name is shortened first: the phase is what changes.
        """
        if not self._running:
            return ""
        test, (since, phase) = next(iter(self._running.items()))
        more = f" (and {len(self._running) - 1} more)" if len(self._running) > 1 else ""
        doing = f": {one_line(phase, MAX_SHOWN)}" if phase else ""
        begin, end = f"{format_duration(self.clock() - since)}  ", f"{doing}{more}"
        taken = len(begin) + len(end)
        return f"{begin}{_shorten(one_line(test, MAX_SHOWN), self.live.console.width, taken)}{end}"


@contextmanager
def suite_progress() -> Iterator[ProgressDisplay]:
    """Yield what shows the suite's progress on stderr: a live line on a terminal, else one line a test."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainProgress(sys.stderr)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield LiveProgress(live)


def _make_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> FittingTable:
    return FittingTable(columns, [[Text(text) for text in row] for row in rows])
