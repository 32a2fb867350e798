"""The causes on the HTML page: title, chips, worst tensor, tests, and the command that runs it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.evidence import Measure
from ci.report.change_text import describe_cause_change
from ci.report.escape import is_safe_url
from ci.report.headline import TITLE, describe_blame, find_figure, find_shown_case, split_diagnosis
from ci.report.labels import CLASSES
from ci.report.number_format import pluralize
from ci.report.reproduce_command import format_reproduce_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.results import CaseResult, Cause, Results

CAUSES = 200
TESTS_PER_CAUSE = 60
JOBS_PER_CAUSE = 20
DETAIL_CHARS = 6_000


@dataclass(frozen=True)
class CauseSection:
    """One cause on the page. `chips` are (style class, label), `jobs` (model, URL)."""

    title: str
    rest: str
    chips: list[tuple[str, str]]
    worst: Measure | None
    tests: list[str]
    more: int
    reproduce: str
    jobs: list[tuple[str, str]]
    detail: str
    detail_of: str


def number_causes(results: Results) -> dict[str, int]:
    """Return the number of each test's cause: its sentence is said once, at the cause."""
    shown = results.causes[:CAUSES]
    return {test: number for number, cause in enumerate(shown, start=1) for _, test in cause.cases}


def make_cause_section(results: Results, cause: Cause) -> CauseSection:
    """Collect what the page shows of one cause; long lists are cut and the rest is counted."""
    cases = results.cases_of(cause)
    shown = find_shown_case(cases)
    with_detail = next((case for case in cases if case.detail.strip()), None)
    tests = [test for _, test in cause.cases]
    title, rest = split_diagnosis(cause.title, TITLE)
    return CauseSection(
        title=f"{title} ({figure})" if (figure := find_figure(cases)) else title,
        rest=rest,
        chips=_make_chips(cause, cases),
        worst=shown.evidence.worst if shown.evidence and shown.used is not None else None,
        tests=tests[:TESTS_PER_CAUSE],
        more=max(len(tests) - TESTS_PER_CAUSE, 0),
        reproduce=format_reproduce_command(results.plan, cause.cases[0][0], cases[0]),
        jobs=[
            (name, entry.job.url)
            for name in cause.models[:JOBS_PER_CAUSE]
            if (entry := results.entry(name)) and entry.job and is_safe_url(entry.job.url)
        ],
        detail=with_detail.detail[-DETAIL_CHARS:] if with_detail else "",
        detail_of=with_detail.name if with_detail else "",
    )


def _make_chips(cause: Cause, cases: Sequence[CaseResult]) -> list[tuple[str, str]]:
    change = describe_cause_change(cause, cases)
    chips = [
        ("", CLASSES[cause.failure_class]),
        ("", pluralize(len(cause.models), "model")),
        ("", pluralize(len(cause.cases), "test")),
    ]
    chips += [(cause.change or "", change)] if change else []
    return chips + ([("neutral", blame)] if (blame := describe_blame(cause)) else [])
