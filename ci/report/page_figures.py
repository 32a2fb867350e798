"""The drawings of a model on the HTML page: error charts, the served difference, the heat map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from ci.evidence import Measure
from ci.report import charts
from ci.report.chart_groups import ChartGroup, group_charts
from ci.report.identities import shorten_test_id
from ci.report.number_format import pluralize
from ci.report.page_parts import mark_safe
from ci.report.served_section import find_served_case, find_token_limit

if TYPE_CHECKING:
    from ci.report.results import CaseResult, EntryResult

CHARTS_PER_MODEL = 40
NAMED_TENSORS = 6
"""Tensors that are named below a chart: the ones nearest to their limit, or above it."""


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption, and the tensors that are named below it."""

    svg: Markup
    caption: str
    worst: tuple[Measure, ...] = ()


def find_worst_case(entry: EntryResult) -> CaseResult | None:
    """Return the failing test, or else the test closest to its limit, for the heat map."""
    with_heat = [case for case in entry.cases if case.evidence and (case.evidence.heat or case.evidence.routing)]
    return max(with_heat, key=lambda case: (case.outcome == "failed", case.used or 0.0), default=None)


def draw_error_charts(entry: EntryResult) -> list[Figure]:
    """Draw one chart for each measured test and dtype, failing first, one scale a dtype.

    Tests whose errors coincide, as those of most variants do, share one chart.
    """
    groups = group_charts(entry)
    scales = {
        dtype: charts.choose_scale([m for group in groups if group.dtype == dtype for m in group.measures])
        for dtype in dict.fromkeys(group.dtype for group in groups)
    }
    return [_draw_group(group, scales[group.dtype]) for group in groups[:CHARTS_PER_MODEL]]


def _draw_group(group: ChartGroup, scale: charts.Scale) -> Figure:
    red = sum(not measure.passed for measure in group.measures)
    state = f"{red} above the limit" if red else "all within the limit"
    tensors = pluralize(len(group.measures), "tensor")
    alike = f"; these {len(group.tests)} coincide" if len(group.tests) > 1 else ""
    caption = f"{' and '.join(group.tests)}, {group.dtype}: {tensors}, {state}{alike}"
    worst = sorted(group.measures, key=lambda measure: (measure.passed, -measure.used))[:NAMED_TENSORS]
    return Figure(mark_safe(charts.draw_error_chart(group.measures, scale)), caption, tuple(worst))


def draw_served_charts(entry: EntryResult) -> list[Figure]:
    """Draw the difference of log-probabilities by position, one chart a dtype."""
    case = find_served_case(entry)
    evidence = case.evidence if case else None
    if evidence is None:
        return []
    return [
        Figure(
            mark_safe(charts.draw_served_chart(gap, find_token_limit(evidence, gap))),
            f"{gap.dtype}, input {gap.case}: the largest difference from Hugging Face at each token position",
        )
        for gap in evidence.served[:CHARTS_PER_MODEL]
    ]


def draw_heat_map(case: CaseResult, entry: str) -> Figure | None:
    """Draw the largest error / limit by layer and group of tokens; None where no test recorded it."""
    heat = case.evidence.heat if case.evidence else None
    if heat is None or not heat.rows or not heat.columns:
        return None
    name = shorten_test_id(case.name, entry)
    caption = f"{name}, input {heat.case}, {heat.dtype}: the largest error / limit in each group of tokens"
    return Figure(mark_safe(charts.draw_heat_map(heat)), caption)


def draw_heat_legend() -> Markup:
    """Draw the colours of the heat maps with the borders between them, as error / limit."""
    borders = charts.HEAT_STEPS
    cells = [f'<path class="heat{level}" d="M{level * 60} 0h60v10h-60z"/>' for level in range(len(borders) + 1)]
    labels = [
        f'<text x="{(i + 1) * 60}" y="22" text-anchor="middle">{10**b:.3g}{" = limit" * (b == 0)}</text>'
        for i, b in enumerate(borders)
    ]
    body = "".join(cells + labels)
    return mark_safe(f'<svg class="legend" viewBox="0 0 560 26" role="img" aria-label="error / limit">{body}</svg>')
