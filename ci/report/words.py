"""The words of every report: verdicts, classes, numbers and times for people. Pure, and not escaped for any place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.evidence import FINGERPRINT, NOT_COVERED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.evidence import Evidence
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


TITLE = 200
"""Characters of a diagnosis that stand where it heads something; its other clauses stand below."""


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


def brief(sentence: str, limit: int) -> tuple[str, str]:
    """The first clauses of a diagnosis that fit into `limit` characters, the very first one always; and the rest."""
    clauses = sentence.split("; ")
    taken = 1
    while taken < len(clauses) and len("; ".join(clauses[: taken + 1])) <= limit:
        taken += 1
    return "; ".join(clauses[:taken]), "; ".join(clauses[taken:])


def blame(results: Results) -> str:
    """Whether this change did it, by the baseline: `2 tests new · 1 already failing on main`; "" without a baseline."""
    if not results.baseline:
        return ""
    changes: list[str] = [case.change for entry in results.entries for case in entry.cases if case.change]
    counted = [(changes.count(kind), CHANGES[kind]) for kind in CHANGES if kind in changes]
    parts = [f"{number if index else count(number, 'test')} {change}" for index, (number, change) in enumerate(counted)]
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


def moved(entries: Sequence[EntryResult]) -> str:
    """What is different from the newest night outside of the subject, told of the first entry that knows of any."""
    drift = next((entry.drift for entry in entries if entry.drift), {})
    return "; ".join(f"{name} {step}" for name, step in drift.items())


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


def reference(cases: Sequence[CaseResult]) -> Evidence | None:
    """The evidence that holds Hugging Face's own answer as one number; None where no test measured it."""
    return next((case.evidence for case in cases if case.evidence and FINGERPRINT in case.evidence.figures), None)


def answered_inputs(known: Evidence) -> str:
    """What Hugging Face's answer was measured on: the first case, which no night's free memory cuts short."""
    return known.coverage.get("inputs", "").split("; ")[0]


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


def short(test: str, entry: str) -> str:
    """`test_moe_implementation[dropless-mixtral]` → `moe_implementation dropless`, where the model is known anyway."""
    step, _, parameter = test.removeprefix("test_").partition("[")
    variant = parameter.removesuffix("]").removesuffix(entry).removesuffix("-")
    return f"{step} {variant}".rstrip()


def notes(entry: EntryResult) -> tuple[str, ...]:
    """What is said about an entry beside its tests: about its results, what its inputs did not reach, its fetch."""
    fetched = [case.evidence for case in entry.cases if case.step == FETCH and case.evidence]
    said = (note for evidence in fetched for note in evidence.notes[:NOTES])
    return (*entry.notes, *uncovered(entry), *said)


def uncovered(entry: EntryResult) -> tuple[str, ...]:
    """What the inputs of an entry's tests did not reach, as `sliding window not covered: capped at 128 tokens`."""
    told = [case.evidence.coverage for case in entry.cases if case.evidence]
    gaps = {f"{key} {why}": None for coverage in told for key, why in coverage.items() if why.startswith(NOT_COVERED)}
    return tuple(gaps)[:NOTES]
