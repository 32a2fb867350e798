"""Which tests of a model share a chart: those whose errors coincide, as the errors of most variants do. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ci.evidence import Measure
from ci.report.identities import shorten_test_id
from ci.suite.tests import SERVED_TEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.results import EntryResult

COINCIDE = 1.25
"""Errors within this factor are the same points: on a chart of eight decades that is less than a point's width."""


@dataclass(frozen=True)
class ChartGroup:
    """Tests with the same errors, and the measures of the first one."""

    dtype: str
    tests: tuple[str, ...]
    measures: tuple[Measure, ...]


def group_charts(entry: EntryResult) -> list[ChartGroup]:
    """Group the measured tests of a model by dtype and errors, failing tests first."""
    groups: list[ChartGroup] = []
    by_layer = [case for case in entry.cases if case.step != SERVED_TEST]  # an engine's scores have no layers
    for case in sorted(by_layer, key=lambda case: case.outcome == "passed"):
        measures = case.evidence.measures if case.evidence else ()
        for dtype in dict.fromkeys(measure.dtype for measure in measures):
            of_dtype = tuple(measure for measure in measures if measure.dtype == dtype)
            if len(of_dtype) > 1:
                _add(groups, ChartGroup(dtype, (shorten_test_id(case.name, entry.name),), of_dtype))
    return groups


def _add(groups: list[ChartGroup], new: ChartGroup) -> None:
    """Add a test to the group whose errors it has, else as a group of its own."""
    for at, known in enumerate(groups):
        if known.dtype == new.dtype and do_coincide(known.measures, new.measures):
            groups[at] = replace(known, tests=(*known.tests, *new.tests))
            return
    groups.append(new)


def do_coincide(some: Sequence[Measure], others: Sequence[Measure]) -> bool:
    """Return whether two tests measured the same tensors with the same verdicts, limits and nearly the same errors."""
    if [(m.tensor, m.passed) for m in some] != [(m.tensor, m.passed) for m in others]:
        return False
    pairs = zip(some, others, strict=True)
    return all(_are_near(a.error, b.error) and _are_near(a.limit, b.limit) for a, b in pairs)


def _are_near(one: float, other: float) -> bool:
    return one == other or (0 < one <= COINCIDE * other and 0 < other <= COINCIDE * one)
