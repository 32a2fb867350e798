"""Results → a table and the failures for a terminal, as a rich renderable. Hostile text never becomes markup. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ci.report import figures, words
from ci.report.escape import one_line
from ci.report.reproduce import reproduce

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ci.report.outcome import CaseResult, Cause, EntryResult, Results

STYLES = {
    "passed": "green",
    "failed": "bold red",
    "neutral": "yellow",
    "missing": "bold red",
    "did_not_run": "yellow",
    "consequence": "dim",
}


def render(results: Results) -> RenderableType:
    """Verdict first; then model, test, verdict, worst tensor, error/limit and time; then the failures by cause."""
    reason = words.reason(results)
    heading = f"{words.title(results)}{': ' + one_line(reason, 200) if reason else ''}"
    parts: list[RenderableType] = [Text(heading, STYLES[results.verdict]), _table(results)]
    for number, cause in enumerate(results.causes, start=1):
        parts.append(_failure(results, number, cause))
    if blame := words.blame(results):
        parts.append(Text(f"Against {results.baseline[:12]} on main: {blame}"))
    parts += [Text(one_line(note), "yellow") for note in results.notes]
    parts += [
        Text(f"{entry.name}: {one_line(note)}", "dim") for entry in results.entries for note in words.notes(entry)
    ]
    return Group(*parts)


def _table(results: Results) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "test", "verdict", "worst tensor"):
        table.add_column(name, overflow="fold")
    table.add_column("error / limit", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for entry in results.entries:
        for index, case in enumerate(entry.cases):
            table.add_row(*_row(entry, case, first=index == 0))
        if entry.label:
            table.add_row("", Text(one_line(entry.label), STYLES[entry.verdict]))
    return table


def _row(entry: EntryResult, case: CaseResult, *, first: bool) -> list[Text]:
    worst = case.evidence.worst if case.evidence and case.used is not None else None
    return [
        Text(entry.name if first else "", "bold"),
        Text(words.short(case.name, entry.name)),
        Text(_outcome(case), "yellow" if case.infrastructure else STYLES[case.outcome]),
        Text(f"{one_line(worst.tensor, 80)} ({one_line(worst.dtype, 16)})" if worst else ""),
        Text(figures.share(case.used) if case.used is not None else ""),
        Text(figures.duration(case.seconds)),
    ]


def _outcome(case: CaseResult) -> str:
    if case.outcome == "failed" and case.failure_class:
        return words.CLASSES[case.failure_class]
    if case.outcome == "consequence":
        return "skipped"
    return "passed on retry" if case.outcome == "passed" and case.earlier else words.OUTCOMES[case.outcome]


def _failure(results: Results, number: int, cause: Cause) -> Group:
    cases = words.cases_of(results, cause)
    style = "yellow" if cause.infrastructure else "bold red"
    lines = [Text(f"{number}. {one_line(cause.title, 400)}", style)]
    state = words.state(cause, cases)
    where = [words.CLASSES[cause.failure_class], words.count(len(cause.models), "model"), state]
    lines.append(Text(f"   {', '.join(filter(None, where))}", "dim"))
    names = [test for _, test in cause.cases]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    lines.append(Text(f"   {', '.join(names[:8])}{more}"))
    shown = max(cases, key=lambda case: case.used or 0.0)
    if shown.evidence is not None and shown.evidence.worst is not None:
        worst = shown.evidence.worst
        lines.append(Text(f"   {one_line(worst.tensor, 80)} {one_line(figures.worst(worst), 400)}"))
    lines.append(Text(f"   reproduce: {reproduce(results.plan, cause.cases[0][0], cases[0])}\n"))
    return Group(*lines)
