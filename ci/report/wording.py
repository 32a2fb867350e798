"""The words of every report: verdicts, failure classes, measured values, times. Not escaped yet for any format.

Plain functions without I/O.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from ci.evidence import NOT_COVERED, NOT_ISOLATED, REPEATED, format_share, format_share_of_limit
from ci.hub.layers import format_layers
from ci.hub.slices import WHOLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.evidence import Evidence, Measure
    from ci.plan import Plan
    from ci.report.results import CaseResult, Cause, EntryResult, Results, Totals

ICONS = {"passed": "✅", "failed": "❌", "neutral": "⚠️"}
OUTCOMES = {
    "passed": "passed",
    "failed": "failed",
    "did_not_run": "did not run",
    "consequence": "skipped because an earlier test failed",
    "missing": "missing",
    "refused": "refused, as known",
}
OUTCOME_ICONS = {
    "passed": "✅",
    "failed": "❌",
    "did_not_run": "⚪",
    "consequence": "⏭️",
    "missing": "❓",
    "refused": "⛔",
}
SIGNS = {
    "passed": "✓",
    "failed": "✗",
    "neutral": "!",
    "did_not_run": "○",
    "consequence": "↷",
    "missing": "?",
    "refused": "⊘",
}
"""The same without emoji, for pages that must look the same with any font."""

CLASSES = {
    "numeric_mismatch": "numeric mismatch",
    "non_finite": "NaN or infinity",
    "missing_tensor": "missing tensor",
    "unexpected_tensor": "unexpected tensor",
    "shape_mismatch": "shape mismatch",
    "config_mismatch": "config mismatch",
    "export_incomplete": "incomplete export",
    "precision": "imprecise operation",
    "variant_did_not_run": "variant did not run",
    "unsupported": "unsupported",
    "out_of_memory": "out of memory",
    "hub_unavailable": "Hub unavailable",
    "gated": "gated model",
    "not_truncatable": "hub-tests cannot truncate this yet",
    "remote_code": "the model's own code has no sandbox to run in, or is not pinned",
    "quantized": "hub-tests does not dequantise these weights yet",
    "timeout": "timeout",
    "crash": "crash",
    "collection": "collection error",
    "environment": "machine or service problem",
    "dependency": "earlier test failed",
    "missing_result": "missing result",
    "unproven": "unproven pass",
    "interrupted": "interrupted",
    "other": "other error",
}
CHANGES = {
    "new": "newly failing",
    "known": "already failing on main",
    "different": "failing in another way than on main",
    "fixed": "fixed",
}
NOT_THE_CHANGE = "infrastructure problem, not caused by this change"
NO_ANSWER = "says nothing about this change"

DOWNLOAD_STEP = "test_download_and_truncate"
PICKED = 40
"""Chosen layers, and characters of a slice, that are shown."""
NOTES = 8
"""How many notes of a download, and how many coverage gaps and warnings of an entry, are shown."""
REASON = 90
"""Characters of the first cause in a report's first line, which then takes two lines of a comment."""
TITLE = 120
"""Characters of a diagnosis in a heading or a table; all of it is shown below."""
ISOLATION = 120
"""Characters of what a test says about its isolation."""

_DEVICE = re.compile(r"cpu|cuda")


def format_title(results: Results) -> str:
    """Return the verdict in a few words.

    For example `Failed: 2 of 3 models, 1 cause (none new)`.
    """
    totals = results.totals
    models = pluralize(totals.models, "model")
    refused = f"; {totals.models_refused} {OUTCOMES['refused']}" if totals.models_refused else ""
    if results.verdict == "passed":
        not_run = f", {pluralize(totals.did_not_run, 'variant')} did not run" if totals.did_not_run else ""
        some = f"{totals.models_passed} of {models}" if refused else models
        return f"Passed: {some}, {pluralize(totals.passed, 'test')}{not_run}{refused}"
    if results.verdict == "neutral" and refused and not totals.models_neutral:
        return f"No answer: {models} {OUTCOMES['refused']}"
    if results.verdict == "neutral":
        verb = "Interrupted: no" if _is_only_interrupted(results) else "No"
        return f"{verb} answer for {totals.models_neutral} of {models}{refused}"
    causes = [cause for cause in results.causes if not cause.infrastructure]
    new = sum(cause.change != "known" for cause in causes)
    news = f" ({new or 'none'} new)" if results.baseline else ""
    interrupted = any(cause.failure_class == "interrupted" for cause in results.causes)
    ended = ", then interrupted" if interrupted else ""
    return f"Failed: {totals.models_failed} of {models}, {pluralize(len(causes), 'cause')}{news}{ended}{refused}"


def _is_only_interrupted(results: Results) -> bool:
    return bool(results.causes) and all(cause.failure_class == "interrupted" for cause in results.causes)


def find_reason(results: Results) -> str:
    """Return the first cause's whole sentence; "" if all passed."""
    if results.causes:
        return results.causes[0].title
    if results.verdict == "passed":
        return ""
    labels = [entry.label for entry in results.entries if entry.verdict != "passed" and entry.label]
    return labels[0] if labels else ""


def format_reason(results: Results, limit: int = REASON) -> str:
    """Return the first cause, shortened and with its figure; "" if all passed."""
    figure = find_figure(results.cases_of(results.causes[0])) if results.causes else ""
    return f"{split_diagnosis(find_reason(results), limit)[0]}{f' ({figure})' if figure else ''}"


def find_shown_case(cases: Sequence[CaseResult]) -> CaseResult:
    """Return the test of a cause that is farthest beyond its limit."""
    return max(cases, key=lambda case: case.used or 0.0)


def find_figure(cases: Sequence[CaseResult]) -> str:
    """Return how far a cause is beyond the limit: `4,000 x the limit`, or ""."""
    used = find_shown_case(cases).used
    return format_share_of_limit(used) if used is not None and used > 1 else ""


def describe_blame(cause: Cause) -> str:
    """Say that a cause is not the change's; "" if it may be."""
    if cause.failure_class == "interrupted":
        return NO_ANSWER
    return NOT_THE_CHANGE if cause.infrastructure else ""


def describe_isolation(results: Results) -> tuple[str, str]:
    """Return a warning that the subject was not isolated, and else how it was; "" where unknown.

    One test without isolation is enough for the warning: its subject could have changed every other result.
    """
    cases = [case for entry in results.entries for case in entry.cases]
    recorded = list(
        dict.fromkeys(case.evidence.isolation for case in cases if case.evidence and case.evidence.isolation)
    )
    for isolation in recorded:
        if isolation.startswith(NOT_ISOLATED):
            author = "the pull request's" if results.plan.request.pull_request else "the subject's"
            return (
                f"Not isolated ({isolation.removeprefix(NOT_ISOLATED)[:ISOLATION]}): this result is {author} own word.",
                "",
            )
    known = (name[:ISOLATION] for name in recorded[:2])
    return "", ", ".join(
        f"isolation {name}" if name.startswith("not needed") else f"isolated by {name}" for name in known
    )


def split_diagnosis(sentence: str, limit: int) -> tuple[str, str]:
    """Split a diagnosis into the first clauses that fit into `limit` characters, and the rest.

    Clauses are separated by "; ". If not even the first one fits, it is cut between words, and the rest is the whole
    sentence again.
    """
    clauses = sentence.split("; ")
    taken = 1
    while taken < len(clauses) and len("; ".join(clauses[: taken + 1])) <= limit:
        taken += 1
    title = "; ".join(clauses[:taken])
    if len(title) > limit:
        cut = title[:limit].rpartition(" ")[0] or title[: limit - 1]
        return f"{cut.rstrip(' ,;:')}…", sentence
    return title, "; ".join(clauses[taken:])


def summarize_changes(results: Results) -> str:
    """Summarize the changes since the baseline; "" without a baseline.

    For example `2 tests newly failing · 1 already failing on main`.
    """
    if not results.baseline:
        return ""
    changes: list[str] = [case.change for entry in results.entries for case in entry.cases if case.change]
    counted = [(changes.count(kind), CHANGES[kind]) for kind in CHANGES if kind in changes]
    parts = [
        f"{number if index else pluralize(number, 'test')} {change}" for index, (number, change) in enumerate(counted)
    ]
    return " · ".join(parts) or "nothing changed"


def list_fixed_tests(results: Results) -> list[str]:
    """List the tests that failed in the newest night and pass now."""
    return [case.name for entry in results.entries for case in entry.cases if case.change == "fixed"]


def list_not_passed(totals: Totals) -> list[tuple[int, str]]:
    """List how many tests did not simply pass, each with what they did."""
    return [
        (totals.failed, "failed"),
        (totals.missing, "missing"),
        (totals.consequence, OUTCOMES["consequence"]),
        (totals.did_not_run, "did not run"),
        (totals.refused, OUTCOMES["refused"]),
        (totals.flaky, "passed only on a later attempt"),
    ]


def describe_change(case: CaseResult) -> str:
    """Describe how a test changed since the baseline.

    For example `already failing on main for 3 nights, last good 1a2b3c4`.
    """
    if case.change is None:
        return ""
    nights = f" for {pluralize(case.streak, 'night')}" if case.streak and case.change == "known" else ""
    good = f", last good {case.last_good[:12]}" if case.last_good else ""
    flaky = case.change == "new" and case.bad_nights
    before = f", failed in {case.bad_nights} of the last {pluralize(case.nights, 'night')}" if flaky else ""
    return f"{CHANGES[case.change]}{nights}{good}{before}"


def describe_cause_change(cause: Cause, cases: Sequence[CaseResult]) -> str:
    """Describe how a cause changed, from the first of its tests with the same change."""
    return next((describe_change(case) for case in cases if case.change == cause.change), "")


def describe_drift(entries: Sequence[EntryResult]) -> str:
    """Describe what changed outside of the subject, from the first entry with such a change."""
    drift = next((entry.drift for entry in entries if entry.drift), {})
    return "; ".join(f"{name} {step}" for name, step in drift.items())


def describe_checkpoint(evidence: Evidence) -> str:
    """Describe the tested checkpoint: `org/model@1a2b3c4d5e6f with 2 layers`, and what was cut from it."""
    if not evidence.revision:
        return evidence.model_id
    picked = f" ({', '.join(map(str, evidence.picked[:PICKED]))})" if evidence.picked else ""
    sliced = f", sliced to {evidence.slice[:PICKED]}" if evidence.slice else ""
    layers = pluralize(evidence.layers, "layer")
    return f"{evidence.model_id}@{evidence.revision[:12]} with {layers}{picked}{sliced}"


def describe_subject(evidence: Evidence) -> str:
    """Describe the tested subject: `fast_llm 0.3.0 1a2b3c4d5e6f`."""
    commit = (evidence.subject_commit or "")[:12]
    return " ".join(filter(None, [evidence.subject, evidence.subject_version, commit]))


def shorten_test_id(test: str, entry: str) -> str:
    """Shorten a test id that is shown beside its model.

    `test_moe_implementation[dropless-mixtral]` → `moe_implementation dropless`
    """
    step, _, parameter = test.removeprefix("test_").partition("[")
    variant = parameter.removesuffix("]").removesuffix(entry).removesuffix("-")
    return f"{step} {variant}".rstrip()


def list_notes(entry: EntryResult) -> tuple[str, ...]:
    """List all notes of an entry: about its results, its warnings, its coverage gaps, its download."""
    downloads = [case.evidence for case in entry.cases if case.step == DOWNLOAD_STEP and case.evidence]
    notes = (note for evidence in downloads for note in evidence.notes[:NOTES])
    tested = (note for case in entry.cases if case.evidence for note in case.evidence.notes)
    repeated = dict.fromkeys(note for note in tested if note.startswith(REPEATED))
    return (*entry.notes, *list_warnings(entry), *list_coverage_gaps(entry), *notes, *list(repeated)[:NOTES])


def list_warnings(entry: EntryResult) -> tuple[str, ...]:
    """List the findings of an entry that its policies do not make red, and how many are not shown."""
    warnings = tuple(dict.fromkeys(w for case in entry.cases if case.evidence for w in case.evidence.warnings))
    more = (f"and {len(warnings) - NOTES} more warnings",) if len(warnings) > NOTES else ()
    return (*warnings[:NOTES], *more)


def list_coverage_gaps(entry: EntryResult) -> tuple[str, ...]:
    """List what an entry's inputs did not reach: `sliding window not covered: capped at 128 tokens`."""
    coverages = [case.evidence.coverage for case in entry.cases if case.evidence]
    gaps = {
        f"{key} {why}": None for coverage in coverages for key, why in coverage.items() if why.startswith(NOT_COVERED)
    }
    return tuple(gaps)[:NOTES]


def format_reproduce_command(plan: Plan, entry: str, case: CaseResult) -> str:
    """Return the command `hub-tests run …` that runs the entry again.

    People paste it into a shell, so it is made from the plan, and not from the line that the test itself wrote (that
    comes from the pull request's job). Only the device comes from the evidence, and only if it is a known one.
    """
    planned = plan.entry(entry)
    layers = format_layers(planned.model.layer_request) if planned else None
    command = ["hub-tests run", entry]
    command += [f"--layers {layers}"] if layers is not None else []
    command += [f"--slice {planned.model.slice}"] if planned and planned.model.slice != WHOLE else []
    command += [f"--subject {shlex.quote(plan.adapter.file if plan.adapter else plan.request.subject)}"]
    evidence = case.evidence
    if evidence is not None and _DEVICE.fullmatch(evidence.device):
        command.append(f"--device {evidence.device}")
    command += ["--deep"] if plan.request.deep else []
    command += [f"--consumer={plan.request.consumer}"] if plan.request.consumer else []
    return " ".join([*command, *map(shlex.quote, plan.request.options)])


def pluralize(number: int, noun: str) -> str:
    """Return the number with its noun: `1 model`, `3 models`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_used_tolerance(used: float | None, before: float | None) -> str:
    """Format error / limit in words, with the baseline's.

    `10 % of the limit, was 4 %`, or `4,000 x the limit`.
    """
    if used is None:
        return ""
    was = f", was {format_share(before)}" if before is not None else ""
    return f"{format_share_of_limit(used)}{was}"


def format_number(value: float | str | None) -> str:
    """Format a measured value: short, or as text if it is not a number."""
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def format_measure(measure: Measure) -> str:
    """Format one measure in one line.

    `float32 (2, 32): error 3.1e-01, limit 7.8e-05, noise floor 2.0e-07; at (0, 3) expected 0.12, got -0.4`

    Error and limit are the pair whose quotient is `Measure.used`: the tensor's, or those of its worst token.
    """
    shape = ", ".join(map(str, measure.shape))
    floor = f", noise floor {measure.floor:.1e}" if measure.floor is not None else ""
    where = ", ".join(map(str, measure.worst_index))
    values = f"; at ({where}) expected {format_number(measure.expected)}, got {format_number(measure.actual)}"
    case = f", input {measure.case}" if measure.case else ""
    error, limit = measure.decisive
    of_token = "of the worst token " if measure.decided_by_token else ""
    return (
        f"{measure.dtype} ({shape}){case}: error {of_token}{error:.1e}, limit {limit:.1e}{floor}"
        f"{values if measure.worst_index else ''}"
    )


def format_duration(seconds: float) -> str:
    """Format a time: `0.4 s`, `42 s`, `3 min`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def label_subject(name: str) -> str:
    """Return what a subject is called in a text: of an adapter's file, its name without the directory."""
    return name.rpartition("/")[2]
