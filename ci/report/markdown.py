"""Results → Markdown for a comment, a job summary, or a file. Verdict first. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report import figures, words
from ci.report.escape import cell, clip, code, text
from ci.report.failures import causes_in_full, counts_by_model, folded, names_by_model
from ci.report.fit import Block, characters, fit, room
from ci.report.limits import COMMENT_CHARS
from ci.report.links import link

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ci.report.outcome import EntryResult, Results

_FIXED, _FACTS = 10, 24


def render(results: Results, limit: int = COMMENT_CHARS, *, size: Callable[[str], int] = characters) -> str:
    """The whole report in at most `limit`, counted by `size`.

    When it does not fit, detail goes in this order: passing models' tests, environment, tracebacks, failing models'
    tests, the rest of the models table, the causes' figures. The verdict and the failing names stay: test by test,
    then by model, at last models with counts.
    """
    top = [Block(_verdict(results)), Block(_facts(results), 1)]
    details = _details(results)
    for names in (causes_in_full, names_by_model, counts_by_model):
        blocks = [*top, *names(results), *details]
        if room(blocks, limit, size):
            return fit(blocks, limit, size)
    return clip(f"{_verdict(results, 0)}\n", limit)


def _verdict(results: Results, limit: int = 160) -> str:
    reason = text(words.brief(words.reason(results), limit)[0], limit)
    return f"## {words.ICONS[results.verdict]} {words.title(results)}{': ' + reason if reason else ''}"


def _facts(results: Results) -> str:
    request, totals = results.plan.request, results.totals
    at = code(request.sha[:12] or request.subject_ref)
    facts = [
        f"{code(request.subject)}{' at ' + at if at else ''}",
        f"{totals.passed} of {words.count(totals.tests, 'test')} passed",
        *(f"{n} {label}" for n, label in words.counts(totals) if n),
        figures.duration(totals.seconds),
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
        gaps = len(words.uncovered(entry))
        verdict = f"{words.ICONS[entry.verdict]} {entry.verdict}{f', {gaps} not covered' if gaps else ''}"
        rows.append(
            f"| {cell(code(entry.name))} | {verdict}{cell(': ' + text(entry.label, 120)) if entry.label else ''} "
            f"| {passed} of {len(entry.cases)} | {_used(entry)} | {figures.duration(entry.seconds)} |"
        )
    return "\n".join(rows)


def _used(entry: EntryResult) -> str:
    closest = words.closest(entry)
    if closest is None:
        return "-"
    was = f", was {figures.share(closest.used_before)}" if closest.used_before is not None else ""
    return f"{figures.share(closest.used)}{was}"


def _tests_of(entry: EntryResult) -> str:
    rows = ["| test | result | tolerance used | time |", "| --- | --- | --- | ---: |"]
    for case in entry.cases:
        was = f", was {figures.share(case.used_before)}" if case.used_before is not None else ""
        why = f": {text(words.brief(case.headline, 160)[0], 160)}" if case.headline else ""
        flaky = f" ({text('; '.join(case.earlier), 200)})" if case.earlier else ""
        rows.append(
            f"| {cell(code(case.name))} | {words.OUTCOME_ICONS[case.outcome]} {words.OUTCOMES[case.outcome]}"
            f"{cell(why)}{cell(flaky)} | {figures.share(case.used)}{was} | {figures.duration(case.seconds)} |"
        )
    notes = [f"- {text(note, 400)}" for note in words.notes(entry)]
    return folded(f"{words.ICONS[entry.verdict]} tests of ", entry.name, "\n".join([*rows, "", *notes]).strip())


def _environment(results: Results) -> str:
    rows = []
    for entry in results.entries:
        known = words.identity(entry.cases)
        about = [words.checkpoint(known), known.device, words.subject(known)] if known else []
        versions = {**entry.host, **(known.libraries if known else {})}
        facts = [*about, *(f"{name} {version}" for name, version in versions.items())]
        if moved := words.moved([entry]):
            facts.append(f"since the last night: {moved}")
        if facts:
            rows.append(f"- {code(entry.name)}: {', '.join(text(fact) for fact in facts[:_FACTS] if fact)}")
    return folded("Environment", "", "\n".join(rows)) if rows else ""
