"""Failures as blocks of Markdown: by cause with all that is known, or, where that is too much, by name. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report import figures, words
from ci.report.escape import code, fence, html, text
from ci.report.fit import Block
from ci.report.links import link
from ci.report.reproduce import reproduce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.outcome import CaseResult, Cause, Results

_CAUSES_IN_FULL = 40
_ICON_MARKED = {"new": "🆕 ", "known": "", "different": "🔀 ", "fixed": "🎉 "}


def causes_in_full(results: Results) -> list[Block]:
    """Each cause once, with all its tests; the first ones with figures and a traceback."""
    blocks = [Block("### Failures")] if results.causes else []
    for number, cause in enumerate(results.causes, start=1):
        cases = words.cases_of(results, cause) if number <= _CAUSES_IN_FULL else []
        names = ", ".join(code(test) for _, test in cause.cases)
        blocks.append(Block(f"{_cause_heading(number, cause, cases)}\n\n{names}"))
        if cases:
            blocks.append(Block(_cause_figures(results, cause, cases), 2))
            blocks.append(Block(_traceback(cases), 5))
    return [block for block in blocks if block.text]


def _cause_heading(number: int, cause: Cause, cases: Sequence[CaseResult]) -> str:
    state = words.state(cause, cases)
    models = words.count(len(cause.models), "model")
    facts = [words.CLASSES[cause.failure_class], models, words.count(len(cause.cases), "test"), text(state)]
    blameless = "infrastructure, not this change" if cause.infrastructure else ""
    summary = ", ".join(fact for fact in [*facts, blameless] if fact)
    title = text(words.brief(cause.title, words.TITLE)[0], 400)
    return f"**{number}. {_ICON_MARKED.get(cause.change or '', '')}{title}**<br>{summary}"


def _cause_figures(results: Results, cause: Cause, cases: Sequence[CaseResult]) -> str:
    rest = words.brief(cause.title, words.TITLE)[1]
    lines = [f"- {text(rest, 400)}"] if rest else []
    shown = max(cases, key=lambda case: case.used or 0.0)
    if shown.evidence is not None and shown.evidence.worst is not None:
        worst = shown.evidence.worst
        lines.append(f"- worst tensor {code(worst.tensor)} {text(figures.worst(worst), 400)}")
    if shown.used is not None:
        lines.append(f"- {figures.margin(shown.used, shown.used_before)}")
    entries = [entry for name in cause.models if (entry := results.entry(name))]
    if moved := words.moved(entries) if cause.change in ("new", "different") else "":
        lines.append(f"- moved as well since the last night: {text(moved, 400)}")
    jobs = [(entry.name, entry.job.url) for entry in entries if entry.job]
    links = [link(name, url) for name, url in jobs if link(name, url)]
    if links:
        lines.append(f"- jobs: {', '.join(links[:20])}")
    lines.append(f"- reproduce: {code(reproduce(results.plan, cause.cases[0][0], cases[0]), 600)}")
    return "\n".join(lines)


def _traceback(cases: Sequence[CaseResult]) -> str:
    case = next((case for case in cases if case.detail.strip()), None)
    return folded("output of ", case.name, fence(case.detail, 4_000)) if case else ""


def names_by_model(results: Results) -> list[Block]:
    """Failing tests in short: one line for all the models that fail in the same tests."""
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


def counts_by_model(results: Results) -> list[Block]:
    """Models only, each with how many of its tests fail."""
    lines = [
        f"{code(entry.name)} ({sum(case.outcome in ('failed', 'missing') for case in entry.cases)})"
        for entry in results.entries
        if entry.verdict != "passed"
    ]
    return [Block("### Failures (tests in each model)\n\n" + ", ".join(lines))]


def folded(label: str, name: str, body: str) -> str:
    """A fold. GitHub renders no Markdown inside `<summary>`, so the hostile `name` goes in as HTML."""
    element = f"<code>{html(name, 200)}</code>" if name else ""
    return f"<details><summary>{label}{element}</summary>\n\n{body}\n\n</details>"
