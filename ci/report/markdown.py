"""Results → Markdown for a comment, a job summary, or a file. Verdict first. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report import words
from ci.report.escape import cell, clip, code, fence, html, text
from ci.report.fit import Block, characters, fit, room
from ci.report.limits import COMMENT_CHARS
from ci.report.links import link
from ci.report.reproduce import reproduce

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ci.report.outcome import CaseResult, Cause, EntryResult, Results

_CAUSES_IN_FULL, _FIXED, _FACTS = 40, 10, 24
_ICON_MARKED = {"new": "🆕 ", "known": "", "different": "🔀 ", "fixed": "🎉 "}


def render(results: Results, limit: int = COMMENT_CHARS, *, size: Callable[[str], int] = characters) -> str:
    """The whole report in at most `limit`, counted by `size`.

    When it does not fit, detail goes in this order: passing models' tests, environment, tracebacks, failing models'
    tests, the rest of the models table, the causes' figures. The verdict and the failing names stay: test by test,
    then by model, at last models with counts.
    """
    top = [Block(_verdict(results)), Block(_facts(results), 1)]
    details = _details(results)
    for names in (_causes_in_full, _names_by_model, _counts_by_model):
        blocks = [*top, *names(results), *details]
        if room(blocks, limit, size):
            return fit(blocks, limit, size)
    return clip(f"{_verdict(results, 0)}\n", limit)


def _verdict(results: Results, limit: int = 160) -> str:
    reason = text(words.reason(results), limit)
    return f"## {words.ICONS[results.verdict]} {words.title(results)}{': ' + reason if reason else ''}"


def _facts(results: Results) -> str:
    request, totals = results.plan.request, results.totals
    at = code(request.sha[:12] or request.subject_ref)
    facts = [
        f"{code(request.subject)}{' at ' + at if at else ''}",
        f"{totals.passed} of {words.count(totals.tests, 'test')} passed",
        *(f"{n} {label}" for n, label in words.counts(totals) if n),
        words.duration(totals.seconds),
        link("run", request.run_url),
    ]
    lines = [" · ".join(fact for fact in facts if fact)]
    if blame := words.blame(results):
        lines.append(f"Against {code(results.baseline[:12])} on main: **{blame}**{_fixed(results)}")
    lines += [f"> {text(note, 400)}" for note in results.notes[:10]]
    return "\n\n".join(lines)


def _fixed(results: Results) -> str:
    names = words.fixed(results)
    more = f" and {len(names) - _FIXED} more" if len(names) > _FIXED else ""
    return f" ({', '.join(map(code, names[:_FIXED]))}{more})" if names else ""


def _causes_in_full(results: Results) -> list[Block]:
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
    return f"**{number}. {_ICON_MARKED.get(cause.change or '', '')}{text(cause.title, 400)}**<br>{summary}"


def _cause_figures(results: Results, cause: Cause, cases: Sequence[CaseResult]) -> str:
    lines = []
    shown = max(cases, key=lambda case: case.used or 0.0)
    if shown.evidence is not None and shown.evidence.worst is not None:
        worst = shown.evidence.worst
        lines.append(f"- worst tensor {code(worst.tensor)} {text(words.worst(worst), 400)}")
    if shown.used is not None:
        lines.append(f"- {words.margin(shown.used, shown.used_before)}")
    jobs = [(name, entry.job.url) for name in cause.models if (entry := results.entry(name)) and entry.job]
    links = [link(name, url) for name, url in jobs if link(name, url)]
    if links:
        lines.append(f"- jobs: {', '.join(links[:20])}")
    lines.append(f"- reproduce: {code(reproduce(results.plan, cause.cases[0][0], cases[0]), 600)}")
    return "\n".join(lines)


def _traceback(cases: Sequence[CaseResult]) -> str:
    case = next((case for case in cases if case.detail.strip()), None)
    return _folded("output of ", case.name, fence(case.detail, 4_000)) if case else ""


def _names_by_model(results: Results) -> list[Block]:
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


def _counts_by_model(results: Results) -> list[Block]:
    lines = [
        f"{code(entry.name)} ({sum(case.outcome in ('failed', 'missing') for case in entry.cases)})"
        for entry in results.entries
        if entry.verdict != "passed"
    ]
    return [Block("### Failures (tests in each model)\n\n" + ", ".join(lines))]


def _details(results: Results) -> list[Block]:
    good = [entry for entry in results.entries if entry.verdict == "passed"]
    bad = [entry for entry in results.entries if entry.verdict != "passed"]
    blocks = [Block(_models_table(results.entries), 3)]
    blocks += [Block(_tests_of(entry), 4) for entry in bad]
    blocks += [Block(_tests_of(entry), 7) for entry in good]
    blocks.append(Block(_environment(results), 6))
    return [block for block in blocks if block.text]


def _models_table(entries: Sequence[EntryResult]) -> str:
    rows = [
        "### Models",
        "",
        "| model | verdict | tests | tolerance used | time |",
        "| --- | --- | ---: | --- | ---: |",
    ]
    for entry in entries:
        passed = sum(case.outcome == "passed" for case in entry.cases)
        verdict = f"{words.ICONS[entry.verdict]} {entry.verdict}"
        rows.append(
            f"| {cell(code(entry.name))} | {verdict}{cell(': ' + text(entry.label, 120)) if entry.label else ''} "
            f"| {passed} of {len(entry.cases)} | {_used(entry)} | {words.duration(entry.seconds)} |"
        )
    return "\n".join(rows)


def _used(entry: EntryResult) -> str:
    closest = words.closest(entry)
    if closest is None:
        return "-"
    was = f", was {words.share(closest.used_before)}" if closest.used_before is not None else ""
    return f"{words.share(closest.used)}{was}"


def _tests_of(entry: EntryResult) -> str:
    rows = ["| test | result | tolerance used | time |", "| --- | --- | --- | ---: |"]
    for case in entry.cases:
        was = f", was {words.share(case.used_before)}" if case.used_before is not None else ""
        why = f": {text(case.headline, 160)}" if case.headline else ""
        flaky = f" ({text('; '.join(case.earlier), 200)})" if case.earlier else ""
        rows.append(
            f"| {cell(code(case.name))} | {words.OUTCOME_ICONS[case.outcome]} {words.OUTCOMES[case.outcome]}"
            f"{cell(why)}{cell(flaky)} | {words.share(case.used)}{was} | {words.duration(case.seconds)} |"
        )
    notes = [f"- {text(note, 400)}" for note in words.notes(entry)]
    return _folded(f"{words.ICONS[entry.verdict]} tests of ", entry.name, "\n".join([*rows, "", *notes]).strip())


def _environment(results: Results) -> str:
    rows = []
    for entry in results.entries:
        known = words.identity(entry.cases)
        about = [words.checkpoint(known), known.device, words.subject(known)] if known else []
        versions = {**entry.host, **(known.libraries if known else {})}
        facts = [*about, *(f"{name} {version}" for name, version in versions.items())]
        moved = [f"{name} {step}" for name, step in entry.drift.items()]
        if moved:
            facts.append(f"since the baseline: {'; '.join(moved)}")
        if facts:
            rows.append(f"- {code(entry.name)}: {', '.join(text(fact) for fact in facts[:_FACTS] if fact)}")
    return _folded("Environment", "", "\n".join(rows)) if rows else ""


def _folded(label: str, name: str, body: str) -> str:
    """A fold. GitHub renders no Markdown inside `<summary>`, so the hostile `name` goes in as HTML."""
    element = f"<code>{html(name, 200)}</code>" if name else ""
    return f"<details><summary>{label}{element}</summary>\n\n{body}\n\n</details>"
