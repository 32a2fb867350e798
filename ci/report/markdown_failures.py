"""The failures of a run as blocks of Markdown: by cause in full, or shorter as names or counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report.change_text import describe_cause_change, describe_drift
from ci.report.escape import code, code_block, escape_html, escape_text, link
from ci.report.headline import TITLE, describe_blame, find_figure, find_shown_case, split_diagnosis
from ci.report.labels import CLASSES
from ci.report.number_format import format_measure, format_used_tolerance, pluralize
from ci.report.reproduce_command import format_reproduce_command
from ci.report.truncate_markdown import Block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.results import CaseResult, Cause, Results

_CAUSES_WITH_FIGURES = 40
_JOBS_PER_CAUSE = 20
_CHANGE_ICONS = {"new": "🆕 ", "known": "", "different": "🔀 ", "fixed": "🎉 "}


def list_causes(results: Results) -> list[Block]:
    """List each cause once with all its tests; the first 40 with figures and a traceback."""
    blocks = [Block("### Failures")] if results.causes else []
    for number, cause in enumerate(results.causes, start=1):
        cases = results.cases_of(cause) if number <= _CAUSES_WITH_FIGURES else []
        names = ", ".join(code(test) for _, test in cause.cases)
        blocks.append(Block(f"{_format_cause_heading(number, cause, cases)}\n\n{names}"))
        if cases:
            blocks.append(Block(_list_cause_figures(results, cause, cases), 2))
            blocks.append(Block(_format_traceback(cases), 5))
    return [block for block in blocks if block.text]


def _format_cause_heading(number: int, cause: Cause, cases: Sequence[CaseResult]) -> str:
    facts = [
        CLASSES[cause.failure_class],
        pluralize(len(cause.models), "model"),
        pluralize(len(cause.cases), "test"),
        escape_text(describe_cause_change(cause, cases)),
        describe_blame(cause),
    ]
    title = escape_text(split_diagnosis(cause.title, TITLE)[0], 400)
    figure = find_figure(cases) if cases else ""
    title += f" ({figure})" if figure else ""
    icon = _CHANGE_ICONS.get(cause.change or "", "")
    return f"**{number}. {icon}{title}**<br>{', '.join(fact for fact in facts if fact)}"


def _list_cause_figures(results: Results, cause: Cause, cases: Sequence[CaseResult]) -> str:
    rest = split_diagnosis(cause.title, TITLE)[1]
    lines = [f"- {escape_text(rest, 400)}"] if rest else []
    shown = find_shown_case(cases)
    if shown.used is not None and shown.evidence is not None and shown.evidence.worst is not None:
        worst = shown.evidence.worst
        lines.append(f"- worst tensor {code(worst.tensor)} {escape_text(format_measure(worst), 400)}")
    if shown.used is not None:
        lines.append(f"- {format_used_tolerance(shown.used, shown.used_before)}")
    entries = [entry for name in cause.models if (entry := results.entry(name))]
    if drift := describe_drift(entries) if cause.change in ("new", "different") else "":
        lines.append(f"- also changed since the last nightly run: {escape_text(drift, 400)}")
    links = [job_link for entry in entries if entry.job and (job_link := link(entry.name, entry.job.url))]
    if links:
        lines.append(f"- jobs: {', '.join(links[:_JOBS_PER_CAUSE])}")
    command = format_reproduce_command(results.plan, cause.cases[0][0], cases[0])
    lines.append(f"- reproduce: {code(command, 600)}")
    return "\n".join(lines)


def _format_traceback(cases: Sequence[CaseResult]) -> str:
    case = next((case for case in cases if case.detail.strip()), None)
    return fold("output of ", case.name, code_block(case.detail, 4_000)) if case else ""


def list_failing_steps(results: Results) -> list[Block]:
    """List the failing steps, one line for all the models that fail in the same steps."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for entry in results.entries:
        steps = dict.fromkeys(case.step for case in entry.cases if case.outcome in ("failed", "missing"))
        if steps:
            groups.setdefault(tuple(steps), []).append(entry.name)
    lines = [
        f"- {', '.join(code(step) for step in steps)} in {', '.join(code(name) for name in names)}"
        for steps, names in groups.items()
    ]
    return [Block("### Failures\n\n" + "\n".join(lines))]


def list_failure_counts(results: Results) -> list[Block]:
    """List only the models that did not pass, each with its number of failing tests."""
    lines = [
        f"{code(entry.name)} ({sum(case.outcome in ('failed', 'missing') for case in entry.cases)})"
        for entry in results.entries
        if entry.verdict != "passed" and not entry.refused_as_known
    ]
    return [Block("### Failures (number of failing tests for each model)\n\n" + ", ".join(lines))]


def fold(label: str, name: str, body: str) -> str:
    """Fold `body` into a `<details>` block.

    GitHub renders no Markdown inside `<summary>`, so the hostile `name` is escaped as HTML.
    """
    element = f"<code>{escape_html(name, 200)}</code>" if name else ""
    return f"<details><summary>{label}{element}</summary>\n\n{body}\n\n</details>"
