"""Results → a table and the failures for a terminal, as a rich renderable. No text of a test is parsed as markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from ci.report.change_text import describe_cause_change, summarize_changes
from ci.report.entry_notes import list_notes
from ci.report.escape import one_line
from ci.report.headline import (
    TITLE,
    describe_blame,
    find_figure,
    find_shown_case,
    format_reason,
    format_title,
    split_diagnosis,
)
from ci.report.identities import describe_isolation, describe_subject, shorten_test_id
from ci.report.labels import CLASSES, OUTCOMES
from ci.report.number_format import format_duration, format_measure, pluralize
from ci.report.phase_times import (
    SHOWN_SECONDS,
    describe_phase,
    describe_rest,
    find_longest_test,
    format_seconds,
    join_variants,
    make_phase_table,
)
from ci.report.reproduce_command import format_reproduce_command
from ci.report.results import find_most_complete_evidence
from ci.report.text_table import INDENT, Column, FittingTable, WrappedCommand
from ci.units import format_share

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ci.report.results import CaseResult, Cause, EntryResult, Results

STYLES = {
    "passed": "green",
    "failed": "bold red",
    "neutral": "yellow",
    "missing": "bold red",
    "did_not_run": "yellow",
    "consequence": "dim",
    "refused": "yellow",
}
_TESTS_PER_CAUSE = 8
_TEST_COLUMNS = (
    *(Column("model"), Column("test"), Column("verdict"), Column("worst tensor", 2)),
    *(Column("error / limit", align="right", whole=True), Column("time", 1, "right", whole=True)),
)


def render_terminal(results: Results) -> RenderableType:
    """Return the verdict, a table of all tests, and the failures by cause."""
    reason = format_reason(results)
    heading = f"{format_title(results)}{': ' + one_line(reason, 200) if reason else ''}"
    parts: list[RenderableType] = [
        Text(heading, STYLES[results.verdict]),
        *_format_subject(results),
        *_make_table(results),
    ]
    for number, cause in enumerate(results.causes, start=1):
        parts.append(_format_cause(results, number, cause))
    if changes := summarize_changes(results):
        parts.append(Text(f"Compared with {results.baseline[:12]} on main: {changes}"))
    parts += [Text(one_line(note), "yellow") for note in results.notes]
    for entry in results.entries:
        parts += [Text(f"{entry.name}: {one_line(note)}", "dim") for note in list_notes(entry)]
    return Group(*parts, *_list_times(results))


def _list_times(results: Results) -> list[RenderableType]:
    """Return a table of the seconds by phase for each model, and the seconds outside of the tests."""
    parts: list[RenderableType] = []
    for entry in results.entries:
        if (table := make_phase_table(entry)) is None:
            continue
        rows = []
        for one in join_variants(table.details):
            share = f"{one.seconds / table.seconds:.0%}" if one.seconds >= SHOWN_SECONDS and table.seconds else ""
            beside = f" ({format_seconds(one.beside)} beside)" if one.beside >= SHOWN_SECONDS else ""
            label = one_line(describe_phase(one), 80) + beside
            rows.append((label, format_seconds(one.seconds), share, find_longest_test(entry, one)))
        rows.append(("sum", f"{table.seconds:.1f}", "100%", ""))
        columns = (
            *(Column(f"{entry.name}: seconds by phase"), Column("seconds", align="right")),
            *(Column("of all", 1, "right"), Column("longest in", 2)),
        )
        shown = FittingTable(columns, [[Text(text) for text in row] for row in rows])
        parts += [Text(), shown, *([Text(describe_rest(table), "dim")] if describe_rest(table) else [])]
    outside = [f"{one_line(describe_phase(one), 80)} {one.seconds:.1f} s" for one in results.outside]
    return [*parts, Text(f"Outside of the tests: {'; '.join(outside)}", "dim")] if outside else parts


def _format_subject(results: Results) -> list[Text]:
    """Say what was tested and how it was isolated; a warning where it was not, or where no framework was tested."""
    warning, isolation = describe_isolation(results)
    found = (find_most_complete_evidence(entry.cases) for entry in results.entries)
    tested = next((evidence for evidence in found if evidence), None)
    facts = [describe_subject(tested), f"on {tested.device}" if tested.device else ""] if tested else []
    fact = ", ".join(filter(None, [" ".join(filter(None, facts)), isolation]))
    lines = [Text(one_line(warning), "bold yellow")] if warning else []
    return [*lines, *([Text(one_line(fact), "dim")] if fact else [])]


def _make_table(results: Results) -> list[RenderableType]:
    """Make the table of tests; a chain that an earlier failure skipped is one sentence below it."""
    rows, below = [], []
    for entry in results.entries:
        shown = [case for case in entry.cases if case.outcome != "consequence"]
        rows += [_make_row(entry, case, first=index == 0) for index, case in enumerate(shown)]
        if chain := [case for case in entry.cases if case.outcome == "consequence"]:
            names = ", ".join(shorten_test_id(case.name, entry.name) for case in chain)
            below.append(Text(f"{entry.name}: {OUTCOMES['consequence']}: {names}", STYLES["consequence"]))
        if entry.label:
            below.append(Text(f"{entry.name}: {one_line(entry.label)}", STYLES[entry.verdict]))
    return [Text(), FittingTable(_TEST_COLUMNS, rows), *below, Text()]


def _make_row(entry: EntryResult, case: CaseResult, *, first: bool) -> list[Text]:
    worst = case.evidence.worst if case.evidence and case.used is not None else None
    return [
        Text(entry.name if first else "", "bold"),
        Text(shorten_test_id(case.name, entry.name)),
        Text(_describe_outcome(case), "yellow" if case.infrastructure else STYLES[case.outcome]),
        Text(f"{one_line(worst.tensor, 80)} ({one_line(worst.dtype, 16)})" if worst else ""),
        Text(format_share(case.used) if case.used is not None else ""),
        Text(format_duration(case.seconds)),
    ]


def _describe_outcome(case: CaseResult) -> str:
    if case.outcome == "failed" and case.failure_class:
        return CLASSES[case.failure_class]
    return "passed on retry" if case.outcome == "passed" and case.earlier else OUTCOMES[case.outcome]


def _format_cause(results: Results, number: int, cause: Cause) -> Group:
    cases = results.cases_of(cause)
    style = "yellow" if cause.infrastructure else "bold red"
    figure = find_figure(cases)
    title, rest = split_diagnosis(cause.title, TITLE)
    lines = [Text(one_line(rest, 400))] if rest else []
    models = pluralize(len(cause.models), "model")
    blame = describe_blame(cause)
    facts = [CLASSES[cause.failure_class], models, describe_cause_change(cause, cases), blame]
    lines.append(Text(", ".join(filter(None, facts)), "dim"))
    tests = [test for _, test in cause.cases]
    more = f" and {len(tests) - _TESTS_PER_CAUSE} more" if len(tests) > _TESTS_PER_CAUSE else ""
    lines.append(Text(f"{', '.join(tests[:_TESTS_PER_CAUSE])}{more}"))
    shown = find_shown_case(cases)
    if shown.used is not None and shown.evidence is not None and shown.evidence.worst is not None:
        worst = shown.evidence.worst
        lines.append(Text(f"{one_line(worst.tensor, 80)} {one_line(format_measure(worst), 400)}"))
    command = format_reproduce_command(results.plan, cause.cases[0][0], cases[0])
    return Group(
        Text(f"{number}. {one_line(title, 400)}{f' ({figure})' if figure else ''}", style),
        *(Padding(line, (0, 0, 0, INDENT)) for line in lines),
        WrappedCommand(command, "reproduce:"),
        Text(),
    )
