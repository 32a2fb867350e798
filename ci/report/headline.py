"""A result in one line: the verdict, its first cause, and a cause's figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report.labels import NO_ANSWER, NOT_THE_CHANGE, OUTCOMES
from ci.report.number_format import pluralize
from ci.units import format_share_of_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.results import CaseResult, Cause, Results, Totals

REASON = 90
"""Characters of the first cause in a report's first line, which then takes two lines of a comment."""
TITLE = 120
"""Characters of a diagnosis in a heading or a table; all of it is shown below."""


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
