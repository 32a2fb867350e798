"""The words of every report: verdicts, classes, numbers and times for people. Pure, and not escaped for any place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.evidence import Evidence, Measure
    from ci.report.outcome import CaseResult, Cause, EntryResult, Results, Totals

ICONS = {"passed": "✅", "failed": "❌", "neutral": "⚠️"}
OUTCOMES = {
    "passed": "passed",
    "failed": "failed",
    "did_not_run": "did not run",
    "consequence": "skipped, an earlier test failed",
    "missing": "missing",
}
OUTCOME_ICONS = {"passed": "✅", "failed": "❌", "did_not_run": "⚪", "consequence": "⏭️", "missing": "❓"}
SIGNS = {"passed": "✓", "failed": "✗", "neutral": "!", "did_not_run": "○", "consequence": "↷", "missing": "?"}
"""The same without emoji, for pages that must look alike with any font."""

CLASSES = {
    "numeric_mismatch": "numeric mismatch",
    "non_finite": "not finite",
    "missing_tensor": "missing tensor",
    "unexpected_tensor": "unexpected tensor",
    "shape_mismatch": "shape mismatch",
    "config_mismatch": "config mismatch",
    "variant_did_not_run": "variant did not run",
    "unsupported": "unsupported",
    "out_of_memory": "out of memory",
    "hub_unavailable": "Hub unavailable",
    "gated": "gated model",
    "timeout": "timeout",
    "crash": "crash",
    "collection": "collection error",
    "environment": "environment",
    "dependency": "earlier test failed",
    "missing_result": "missing result",
    "other": "other error",
}
FETCH = "test_download_and_truncate"
NOTES = 8
"""Of a fetch's notes as many are shown; an honest one has fewer."""
CHANGES = {
    "new": "new",
    "known": "already failing on main",
    "different": "failing differently than on main",
    "fixed": "fixed",
}


def count(number: int, noun: str) -> str:
    """`1 model`, `3 models`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def title(results: Results) -> str:
    """The verdict in a few words, as `Failed: 2 of 3 models, 1 cause`; where nights are known, `1 cause (none new)`."""
    totals = results.totals
    if results.verdict == "passed":
        silent = f", {count(totals.did_not_run, 'variant')} did not run" if totals.did_not_run else ""
        return f"Passed: {count(totals.models, 'model')}, {count(totals.passed, 'test')}{silent}"
    if results.verdict == "neutral":
        return f"No answer for {totals.models_neutral} of {count(totals.models, 'model')}"
    own = [cause for cause in results.causes if not cause.infrastructure]
    new = sum(cause.change != "known" for cause in own)
    news = f" ({new or 'none'} new)" if results.baseline else ""
    return f"Failed: {totals.models_failed} of {count(totals.models, 'model')}, {count(len(own), 'cause')}{news}"


def reason(results: Results) -> str:
    """The first cause's sentence, which with `title` makes a report's first line; "" where all is well."""
    if results.causes:
        return results.causes[0].title
    labels = [entry.label for entry in results.entries if entry.verdict != "passed" and entry.label]
    return labels[0] if labels else ""


def blame(results: Results) -> str:
    """Whether this change did it, by the baseline: `2 new · 1 already failing on main`; "" without a baseline."""
    if not results.baseline:
        return ""
    changes: list[str] = [case.change for entry in results.entries for case in entry.cases if case.change]
    parts = [f"{changes.count(kind)} {CHANGES[kind]}" for kind in CHANGES if changes.count(kind)]
    return " · ".join(parts) or "nothing changed"


def fixed(results: Results) -> list[str]:
    """The tests that failed on the newest night and pass here."""
    return [case.name for entry in results.entries for case in entry.cases if case.change == "fixed"]


def counts(totals: Totals) -> list[tuple[int, str]]:
    """How many tests did something else than pass, and what."""
    return [
        (totals.failed, "failed"),
        (totals.missing, "missing"),
        (totals.consequence, "skipped because of a failure"),
        (totals.did_not_run, "did not run"),
        (totals.flaky, "passed only on a later attempt"),
    ]


def closest(entry: EntryResult) -> CaseResult | None:
    """The test of an entry that used most of its tolerance; None where nothing was measured."""
    measured = [case for case in entry.cases if case.used is not None]
    return max(measured, key=lambda case: case.used or 0.0, default=None)


def change(case: CaseResult) -> str:
    """`new, last good 1a2b3c4, failed in 2 of 30 nights before` or `already failing on main for 3 nights, …`."""
    if case.change is None:
        return ""
    nights = f" for {count(case.streak, 'night')}" if case.streak and case.change == "known" else ""
    good = f", last good {case.last_good[:12]}" if case.last_good else ""
    flaky = case.change == "new" and case.bad_nights
    before = f", failed in {case.bad_nights} of {count(case.nights, 'night')} before" if flaky else ""
    return f"{CHANGES[case.change]}{nights}{good}{before}"


def checkpoint(known: Evidence) -> str:
    """`org/model@1a2b3c4d5e6f with 2 layers`, as far as it is known."""
    return (
        f"{known.model_id}@{known.revision[:12]} with {count(known.layers, 'layer')}"
        if known.revision
        else known.model_id
    )


def subject(known: Evidence) -> str:
    """`fast_llm 0.3.0 1a2b3c4d5e6f`, as far as it is known."""
    return " ".join(filter(None, [known.subject, known.subject_version, (known.subject_commit or "")[:12]]))


def state(cause: Cause, cases: Sequence[CaseResult]) -> str:
    """The same for a cause, told of the first of its cases that is what the cause is."""
    return next((change(case) for case in cases if case.change == cause.change), "")


def identity(cases: Sequence[CaseResult]) -> Evidence | None:
    """The evidence that knows most of what was tested: revision and libraries; None where no test said anything."""
    told = [case.evidence for case in cases if case.evidence]
    return max(told, key=lambda known: (bool(known.libraries), bool(known.revision)), default=None)


def cases_of(results: Results, cause: Cause) -> list[CaseResult]:
    """The cases of a cause, in order."""
    members = set(cause.cases)
    concerned = set(cause.models)
    return [
        case
        for entry in results.entries
        if entry.name in concerned
        for case in entry.cases
        if (entry.name, case.name) in members and case.fingerprint == cause.fingerprint
    ]


def share(used: float | None) -> str:
    """`10 %` of the tolerance; `12 x` from ten times the limit on."""
    if used is None:
        return "-"
    if not math.isfinite(used):
        return "∞"
    if used >= 10:
        return f"{used:,.0f} x" if used < 1e6 else f"{used:.1e} x"
    return f"{used * 100:.0f} %" if used >= 0.01 else "<1 %"


def short(test: str, entry: str) -> str:
    """`test_moe_implementation[dropless-mixtral]` → `moe_implementation dropless`, where the model is known anyway."""
    step, _, parameter = test.removeprefix("test_").partition("[")
    variant = parameter.removesuffix("]").removesuffix(entry).removesuffix("-")
    return f"{step} {variant}".rstrip()


def margin(used: float | None, before: float | None) -> str:
    """`used 10 % of the tolerance, was 4 %`, or `4,000 x the tolerance`."""
    if used is None:
        return ""
    was = f", was {share(before)}" if before is not None else ""
    return f"{share(used)} the tolerance{was}" if used >= 10 else f"used {share(used)} of the tolerance{was}"


def number(value: float | str | None) -> str:
    """A measured value: short, and as text where it is not a number."""
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def worst(measure: Measure) -> str:
    """`float32 (2, 32): error 3.1e-01, limit 7.8e-05, floor 2.0e-07; at (0, 3) expected 0.12, got -0.4`."""
    shape = ", ".join(map(str, measure.shape))
    floor = f", floor {measure.floor:.1e}" if measure.floor is not None else ""
    where = ", ".join(map(str, measure.worst_index))
    values = f"; at ({where}) expected {number(measure.expected)}, got {number(measure.actual)}"
    case = f", input {measure.case}" if measure.case else ""
    return (
        f"{measure.dtype} ({shape}){case}: error {measure.error:.1e}, limit {measure.limit:.1e}{floor}"
        f"{values if measure.worst_index else ''}"
    )


def notes(entry: EntryResult) -> tuple[str, ...]:
    """What is said about an entry beside its tests: about its results, and by its fetch, as why more was moved."""
    fetched = [case.evidence for case in entry.cases if case.step == FETCH and case.evidence]
    return (*entry.notes, *(note for evidence in fetched for note in evidence.notes[:NOTES]))


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
