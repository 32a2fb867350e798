"""What changed since the baseline, in words: tests, causes, and what the subject stands on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report.labels import CHANGES
from ci.report.number_format import pluralize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.results import CaseResult, Cause, EntryResult, Results


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
