"""Results → Markdown for a comment, a job summary, or a file. The verdict comes first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report.change_text import describe_drift, list_fixed_tests, summarize_changes
from ci.report.companion_tables import build_companion_tables
from ci.report.entry_notes import list_coverage_gaps, list_notes
from ci.report.escape import cell, clip, code, escape_text, link
from ci.report.headline import REASON, TITLE, format_reason, format_title, list_not_passed, split_diagnosis
from ci.report.identities import describe_checkpoint, describe_isolation, describe_subject, label_subject
from ci.report.labels import ICONS, OUTCOME_ICONS, OUTCOMES
from ci.report.limits import COMMENT_CHARS
from ci.report.markdown_failures import fold, list_causes, list_failing_steps, list_failure_counts
from ci.report.number_format import format_duration, pluralize
from ci.report.phase_times import PhaseTable, describe_phase, describe_rest, format_seconds, make_phase_table
from ci.report.results import find_closest_case, find_most_complete_evidence, group_by_causes
from ci.report.served_section import describe_served
from ci.report.truncate_markdown import Block, count_characters, essential_blocks_fit, join_blocks
from ci.units import format_share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ci.report.results import CaseResult, EntryResult, Results

_FIXED, _FACTS, _NAMES = 10, 24, 12


def render_markdown(
    results: Results, limit: int = COMMENT_CHARS, *, size: Callable[[str], int] = count_characters
) -> str:
    """Return the whole report in at most `limit`, measured by `size`.

    If it does not fit, parts are left out in this order: times by phase, exports, tests of passing models, environment,
    tracebacks, tests of failing models, table of models, figures of the causes. The verdict and the failing names
    always stay: each test, or if that is too long each model with its failing steps, or at last a count for each.
    """
    top = [Block(_format_heading(results)), Block(_list_facts(results), 1)]
    details = _list_details(results)
    for list_failures in (list_causes, list_failing_steps, list_failure_counts):
        blocks = [*top, *list_failures(results), *details]
        if essential_blocks_fit(blocks, limit, size):
            return join_blocks(blocks, limit, size)
    return clip(f"{_format_heading(results, 0)}\n", limit)


def _format_heading(results: Results, limit: int = REASON) -> str:
    reason = escape_text(format_reason(results, limit), limit + 40) if limit else ""
    heading = f"## {ICONS[results.verdict]} {format_title(results)}{': ' + reason if reason else ''}"
    warning = describe_isolation(results)[0]
    return f"{heading}\n\n**{escape_text(warning)}**" if warning else heading


def _list_facts(results: Results) -> str:
    request, totals = results.plan.request, results.totals
    commit = code(request.sha[:12] or request.subject_ref)
    facts = [
        f"{code(label_subject(request.subject))}{' at ' + commit if commit else ''}",
        f"{totals.passed:,} of {pluralize(totals.tests, 'test')} passed",
        *(f"{number} {label}" for number, label in list_not_passed(totals) if number),
        format_duration(totals.seconds),
        escape_text(describe_isolation(results)[1]),
        link("run", request.run_url),
    ]
    lines = [" · ".join(fact for fact in facts if fact)]
    if changes := summarize_changes(results):
        lines.append(f"Compared with {code(results.baseline[:12])} on main: **{changes}**{_list_fixed(results)}")
    lines += [f"> {escape_text(note, 400)}" for note in results.notes[:10]]
    return "\n\n".join(lines)


def _list_fixed(results: Results) -> str:
    names = list_fixed_tests(results)
    more = f" and {len(names) - _FIXED} more" if len(names) > _FIXED else ""
    return f" ({', '.join(map(code, names[:_FIXED]))}{more})" if names else ""


def _list_details(results: Results) -> list[Block]:
    passed = [entry for entry in results.entries if entry.verdict == "passed"]
    blocks = [Block(_make_models_table(results.entries), 3)]
    blocks += [Block(_make_group_table(group), 4) for group in group_by_causes(results)]
    blocks += [Block(_fold_tests(entry), 7) for entry in passed]
    blocks.append(Block(_list_exports(results), 7))
    blocks.append(Block(_list_environments(results), 6))
    blocks += [
        Block(_fold_times(entry.name, table), 8) for entry in results.entries if (table := make_phase_table(entry))
    ]
    blocks.append(Block(_list_outside(results), 8))
    return [block for block in blocks if block.text]


def _make_models_table(entries: Sequence[EntryResult]) -> str:
    rows = [
        "### Models",
        "",
        "| model | verdict | tests | error / limit | time |",
        "| --- | --- | ---: | --- | ---: |",
    ]
    for entry in entries:
        passed = sum(case.outcome == "passed" for case in entry.cases)
        gaps = len(list_coverage_gaps(entry))
        verdict = f"{ICONS[entry.verdict]} {entry.verdict}"
        verdict += f", {pluralize(gaps, 'coverage gap')}" if gaps else ""
        verdict += cell(f": {escape_text(entry.label, 120)}") if entry.label else ""
        rows.append(
            f"| {cell(code(entry.name))} | {verdict} | {passed} of {len(entry.cases)} "
            f"| {_format_used(find_closest_case(entry.cases))} | {format_duration(entry.seconds)} |"
        )
    return "\n".join(rows)


def _format_used(case: CaseResult | None) -> str:
    if case is None:
        return "-"
    was = f", was {format_share(case.used_before)}" if case.used_before is not None else ""
    return f"{format_share(case.used)}{was}"


def _make_group_table(entries: Sequence[EntryResult]) -> str:
    """Fold the tests of all models that fail by the same causes into one row."""
    if len(entries) == 1:
        return _fold_tests(entries[0])
    tables = (f"{code(entry.name)}\n\n{_make_tests_table(entry)}" for entry in entries)
    more = f" and {len(entries) - _NAMES} more" if len(entries) > _NAMES else ""
    names = ", ".join(entry.name for entry in entries[:_NAMES]) + more
    label = f"{ICONS[entries[0].verdict]} tests of {len(entries)} models that fail by the same cause: "
    return fold(label, names, "\n\n".join(tables))


def _fold_tests(entry: EntryResult) -> str:
    return fold(f"{ICONS[entry.verdict]} tests of ", entry.name, _make_tests_table(entry))


def _make_tests_table(entry: EntryResult) -> str:
    rows = ["| test | result | error / limit | time |", "| --- | --- | --- | ---: |"]
    for case in entry.cases:
        why = f": {escape_text(split_diagnosis(case.headline, TITLE)[0], 160)}" if case.headline else ""
        earlier = f" ({escape_text('; '.join(case.earlier), 200)})" if case.earlier else ""
        rows.append(
            f"| {cell(code(case.name))} | {OUTCOME_ICONS[case.outcome]} {OUTCOMES[case.outcome]}"
            f"{cell(why)}{cell(earlier)} | {_format_used(case)} | {format_duration(case.seconds)} |"
        )
    notes = [f"- {escape_text(note, 400)}" for note in (*list_notes(entry), *describe_served(entry))]
    return "\n".join([*rows, "", *notes]).strip()


def _list_exports(results: Results) -> str:
    """Fold one row for each format: what exports change beside the weights, counted, and the findings by name."""
    rows = []
    for table in build_companion_tables(results):
        grave = [row.companion for row in table.rows if row.companion.judgement in ("defect", "finding")]
        names = dict.fromkeys(f"{one.name} {one.fate}" for one in grave)
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        said = cell(", ".join(map(code, list(names)[:_NAMES])) + more)
        rows.append(f"| {cell(code(table.checkpoint_format))} | {table.summary} | {said} |")
    head = "| format | beside the weights | defects and findings |\n| --- | --- | --- |"
    return fold("Exports beside the weights", "", "\n".join([head, *rows])) if rows else ""


def _list_environments(results: Results) -> str:
    rows = []
    for entry in results.entries:
        tested = find_most_complete_evidence(entry.cases)
        about = [describe_checkpoint(tested), tested.device, describe_subject(tested)] if tested else []
        versions = {**entry.host, **(tested.libraries if tested else {})}
        facts = [*about, *(f"{name} {version}" for name, version in versions.items())]
        if drift := describe_drift([entry]):
            facts.append(f"changed since the last nightly run: {drift}")
        if facts:
            rows.append(f"- {code(entry.name)}: {', '.join(escape_text(fact) for fact in facts[:_FACTS] if fact)}")
    return fold("Environment", "", "\n".join(rows)) if rows else ""


def _fold_times(entry: str, table: PhaseTable) -> str:
    """Fold one table of times: a row a test, their sums, then each phase with its details."""
    rows = [
        f"| test | {' | '.join(table.columns)} | all |",
        f"| --- |{' ---: |' * (len(table.columns) + 1)}",
        *(_format_times(cell(code(test)), seconds, whole) for test, seconds, whole in table.rows),
        _format_times("**sum**", table.sums, table.seconds),
        "",
        "| phase | seconds | beside |",
        "| --- | ---: | ---: |",
    ]
    for one in table.details:
        name = cell(escape_text(describe_phase(one), 160))
        rows.append(f"| {name} | {format_seconds(one.seconds)} | {format_seconds(one.beside)} |")
    rows += ["", f"{rest}."] if (rest := describe_rest(table)) else []
    return fold("Seconds by phase of ", entry, "\n".join(rows))


def _format_times(name: str, seconds: Sequence[float], whole: float) -> str:
    return f"| {name} | {' | '.join(map(format_seconds, seconds))} | {whole:.1f} |"


def _list_outside(results: Results) -> str:
    times = [f"{escape_text(describe_phase(one), 160)} {one.seconds:.1f} s" for one in results.outside]
    return f"Outside of the tests: {'; '.join(times)}." if times else ""
