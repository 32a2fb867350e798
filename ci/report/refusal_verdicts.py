"""Known refusals of the registry, compared with an entry's tests: as known, no longer, or failed in another way.

Only the plan's registry is asked, and only the report decides: no evidence of a test can say that it was refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ci.evidence import INFRASTRUCTURE
from ci.subjects.registry import find_offer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.known_refusals import KnownRefusal
    from ci.plan import Plan, PlanEntry
    from ci.report.results import CaseResult, EntryResult, RefusalState, Results

CONVERSION = "test_conversion"
"""The test in which a subject refuses a model: later ones are consequences."""
NO_REFUSAL: frozenset[str] = frozenset(
    {"crash", "timeout", "out_of_memory", "missing_result", "unproven", "collection", *INFRASTRUCTURE}
)
"""Failures that no message explains: the words may stand in the output of a process that died."""


def judge_refusal(entry: PlanEntry, subject: str, verdict: EntryResult) -> EntryResult:
    """Return an entry's result with what became of the refusal that the registry knows for the subject."""
    known = entry.model.find_refusal(find_offer(subject).name)
    if known is None:
        return verdict
    state = _compare(known, verdict.cases, f"{CONVERSION}[{entry.name}]")
    said = describe_refusal(known, state)
    if state != "as_known":
        return replace(verdict, refusal=state, notes=(*verdict.notes, *([said] if said else [])))
    cases = tuple(_mark_refused(case) for case in verdict.cases)
    return replace(verdict, refusal=state, verdict="neutral", label=said, cases=cases)


def describe_refusal(known: KnownRefusal, state: RefusalState) -> str:
    """Say in one line what became of a known refusal; "" where the tests do not tell."""
    if state == "as_known":
        return f"refused, as known since {known.since}: {known.finding}"
    if state == "no_longer":
        return f"no longer refused: remove the registry's line known_refusals of {known.subject} ({known.finding})"
    if state == "differently":
        return f'not the refusal that is known since {known.since} ("{known.words}"; {known.finding})'
    return ""


def list_refusals(results: Results) -> list[tuple[EntryResult, KnownRefusal]]:
    """List the entries of a run whose known refusal was met, or met no longer."""
    found = ((entry, find_known(results.plan, entry.name)) for entry in results.entries if entry.refusal)
    return [(entry, known) for entry, known in found if known]


def find_known(plan: Plan, name: str) -> KnownRefusal | None:
    """Return the refusal that the plan's registry knows for one of its entries."""
    planned = plan.entry(name)
    return planned.model.find_refusal(find_offer(plan.request.subject).name) if planned else None


def _compare(known: KnownRefusal, cases: Sequence[CaseResult], test: str) -> RefusalState:
    conversion = next((case for case in cases if case.name == test), None)
    if conversion is None or conversion.outcome not in ("passed", "failed") or conversion.infrastructure:
        return ""
    if conversion.outcome == "passed":
        return "no_longer"
    others = [case for case in cases if case.outcome in ("failed", "missing") and case is not conversion]
    spoken = conversion.planned and conversion.failure_class not in NO_REFUSAL
    return "as_known" if spoken and not others and known.is_said_in(conversion.headline) else "differently"


def _mark_refused(case: CaseResult) -> CaseResult:
    """Return the test of the refusal with its own outcome, without what compares it with earlier nights."""
    return replace(case, outcome="refused", change=None) if case.outcome == "failed" else case
