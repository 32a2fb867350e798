"""Results → `report.html`: one page without requests to the network; its one script searches, filters and sorts.

Every text is cleaned and then escaped by Jinja. Only the SVG of `ci.report.charts`, which escapes by itself, the style
sheet and the script go in as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup

from ci.evidence import LayerRouting, Measure, format_share
from ci.report import charts, wording
from ci.report.chart_groups import ChartGroup, group_charts
from ci.report.companion_tables import JUDGEMENTS, build_companion_tables
from ci.report.escape import is_safe_url
from ci.report.page_parts import load_parts, make_environment, mark_safe
from ci.report.phase_times import PhaseTable, describe_phase, describe_rest, format_seconds, make_phase_table
from ci.report.results import EntryResult, find_closest_case, find_most_complete_evidence, group_by_causes
from ci.report.served_section import (
    EXPLANATION,
    ServedSection,
    find_served_case,
    find_token_limit,
    make_served_section,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment

    from ci.evidence import Evidence
    from ci.report.results import CaseResult, Cause, Results

MODELS_WITH_CHARTS = 24
CHARTS_PER_MODEL = 40
MODELS_ALWAYS_OPEN = 2
"""A report of at most this many models shows all of them unfolded."""
CAUSES = 200
VERSIONS = ("torch", "transformers")
"""The libraries whose versions stand in the header."""
TESTS_PER_CAUSE = 60
JOBS_PER_CAUSE = 20
ROUTING_ROWS = 200
NAMES_PER_GROUP = 12
NAMED_TENSORS = 6
"""Tensors that are named below a chart: the ones nearest to their limit, or above it."""
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


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption, and the tensors that are named below it."""

    svg: Markup
    caption: str
    worst: tuple[Measure, ...] = ()


@dataclass(frozen=True)
class ModelSection:
    """One model on the page: its row in the table of models, and its tests and charts below."""

    index: int
    entry: EntryResult
    unfolded: bool
    notes: tuple[str, ...]
    gaps: str
    checkpoint: str
    passed: int
    used: float | None
    used_before: float | None
    drift: str
    charts: list[Figure]
    served: ServedSection | None
    served_charts: list[Figure]
    heat_map: Figure | None
    routing: list[LayerRouting]
    routing_summary: str
    environment: list[tuple[str, str]]
    times: PhaseTable | None


@dataclass(frozen=True)
class ModelGroup:
    """Models that fail by the same causes, as one row with a `label`; a model alone has none."""

    label: str
    models: list[ModelSection]


def render_html(results: Results, made: str = "") -> str:
    """Return the page as text; `made` is its date, UTC in ISO 8601, "" where nobody knows it.

    Charts are drawn for the first 24 models, failing ones first. Every model has a row in the table of models. The
    tests are listed for the models with charts and for all that did not pass.
    """
    drawn = sorted(results.entries, key=lambda entry: entry.verdict == "passed")[:MODELS_WITH_CHARTS]
    charted = {entry.name for entry in drawn}
    few = len(results.entries) <= MODELS_ALWAYS_OPEN
    models = [
        _make_model_section(index, entry, with_charts=entry.name in charted, unfolded=few or entry.verdict != "passed")
        for index, entry in enumerate(results.entries)
    ]
    return (
        _make_environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            title=wording.format_title(results),
            reason="" if results.causes else wording.format_reason(results, wording.TITLE),
            isolation_warning=wording.describe_isolation(results)[0],
            changes_summary=wording.summarize_changes(results),
            verdict_icon=wording.SIGNS[results.verdict],
            facts=_list_facts(results, made),
            run_url=results.plan.request.run_url if is_safe_url(results.plan.request.run_url) else "",
            causes=[_make_cause_section(results, cause) for cause in results.causes[:CAUSES]],
            more_causes=max(len(results.causes) - CAUSES, 0),
            models=models,
            exports=build_companion_tables(results),
            groups=_group_models(results, models, charted),
            listed=charted | {entry.name for entry in results.entries if entry.verdict != "passed"},
            with_charts=len(charted),
            without_charts=len(results.entries) - len(charted),
            heat_legend=_draw_heat_legend(),
            served_explanation=EXPLANATION,
            parts=load_parts(),
            cause_of=_number_causes(results),
        )
    )


def _group_models(results: Results, models: Sequence[ModelSection], charted: set[str]) -> list[ModelGroup]:
    """Group the listed models: those that fail by the same causes are one row to open."""
    sections = {model.entry.name: model for model in models}
    groups = [[sections[entry.name] for entry in entries] for entries in group_by_causes(results)]
    groups += [[model] for model in models if model.entry.verdict == "passed" and model.entry.name in charted]
    return [ModelGroup(_label_group(group), group) for group in sorted(groups, key=lambda group: group[0].index)]


def _label_group(group: Sequence[ModelSection]) -> str:
    if len(group) == 1:
        return ""
    more = f" and {len(group) - NAMES_PER_GROUP} more" if len(group) > NAMES_PER_GROUP else ""
    names = ", ".join(model.entry.name for model in group[:NAMES_PER_GROUP])
    return f"{len(group)} models fail by the same cause: {names}{more}"


@cache
def _make_environment() -> Environment:
    environment = make_environment().overlay()
    environment.globals |= {
        "signs": wording.SIGNS,
        "outcomes": wording.OUTCOMES,
        "classes": wording.CLASSES,
        "changes": wording.CHANGES,
        "judgements": JUDGEMENTS,
        "pluralize": wording.pluralize,
        "shorten_test_id": wording.shorten_test_id,
        "first_clauses": lambda sentence: wording.split_diagnosis(sentence, wording.TITLE)[0],
        "format_share": format_share,
        "format_number": wording.format_number,
        "format_duration": wording.format_duration,
        "format_seconds": format_seconds,
        "describe_phase": describe_phase,
        "describe_rest": describe_rest,
        "meter_value": lambda used: f"{min(used, 1.0):.4f}" if math.isfinite(used) else "1",
    }
    return environment


def _number_causes(results: Results) -> dict[str, int]:
    """Return the number of each test's cause: its sentence is said once, at the cause."""
    shown = results.causes[:CAUSES]
    return {test: number for number, cause in enumerate(shown, start=1) for _, test in cause.cases}


def _list_facts(results: Results, made: str) -> list[tuple[str, str]]:
    request, totals = results.plan.request, results.totals
    found = (find_most_complete_evidence(entry.cases) for entry in results.entries)
    tested = next((evidence for evidence in found if evidence and evidence.libraries), None)
    version = tested.subject_version if tested else ""
    commit = request.sha[:12] or ((tested.subject_commit or "")[:12] if tested else "")
    label = wording.label_subject(request.subject)
    subject = " ".join(filter(None, [label, version, commit or request.subject_ref]))
    libraries = tested.libraries if tested else {}
    versions = ", ".join(f"{name} {libraries[name]}" for name in VERSIONS if name in libraries)
    counts = [(label, str(number)) for number, label in wording.list_not_passed(totals) if number]
    origin = f"#{request.pull_request}" if request.pull_request else request.trigger.replace("_", " ")
    about = [("date", f"{made[:16].replace('T', ' ')} UTC" if made else ""), ("subject", subject)]
    about += [("device", tested.device if tested else ""), ("versions", versions)]
    return [
        *((name, value) for name, value in about if value),
        ("passed", f"{totals.passed} of {wording.pluralize(totals.tests, 'test')}"),
        *counts,
        ("time", wording.format_duration(totals.seconds)),
        *(("", fact) for fact in wording.describe_isolation(results)[1:] if fact),
        ("requested by", f"{origin} {request.actor}".strip()),
    ]


def _make_cause_section(results: Results, cause: Cause) -> CauseSection:
    cases = results.cases_of(cause)
    shown = wording.find_shown_case(cases)
    with_detail = next((case for case in cases if case.detail.strip()), None)
    tests = [test for _, test in cause.cases]
    title, rest = wording.split_diagnosis(cause.title, wording.TITLE)
    return CauseSection(
        title=f"{title} ({figure})" if (figure := wording.find_figure(cases)) else title,
        rest=rest,
        chips=_make_chips(cause, cases),
        worst=shown.evidence.worst if shown.evidence and shown.used is not None else None,
        tests=tests[:TESTS_PER_CAUSE],
        more=max(len(tests) - TESTS_PER_CAUSE, 0),
        reproduce=wording.format_reproduce_command(results.plan, cause.cases[0][0], cases[0]),
        jobs=[
            (name, entry.job.url)
            for name in cause.models[:JOBS_PER_CAUSE]
            if (entry := results.entry(name)) and entry.job and is_safe_url(entry.job.url)
        ],
        detail=with_detail.detail[-DETAIL_CHARS:] if with_detail else "",
        detail_of=with_detail.name if with_detail else "",
    )


def _make_chips(cause: Cause, cases: Sequence[CaseResult]) -> list[tuple[str, str]]:
    change = wording.describe_cause_change(cause, cases)
    chips = [
        ("", wording.CLASSES[cause.failure_class]),
        ("", wording.pluralize(len(cause.models), "model")),
        ("", wording.pluralize(len(cause.cases), "test")),
    ]
    chips += [(cause.change or "", change)] if change else []
    return chips + ([("neutral", blame)] if (blame := wording.describe_blame(cause)) else [])


def _make_model_section(index: int, entry: EntryResult, *, with_charts: bool, unfolded: bool) -> ModelSection:
    tested = find_most_complete_evidence(entry.cases)
    closest = find_closest_case(entry.cases)
    worst = _find_worst_case(entry) if with_charts else None
    routing = worst.evidence.routing if worst and worst.evidence else ()
    flipped = [layer for layer in routing if layer.small_flips or layer.large_flips]
    gaps = len(wording.list_coverage_gaps(entry))
    return ModelSection(
        index=index,
        entry=entry,
        unfolded=unfolded,
        notes=wording.list_notes(entry),
        gaps=wording.pluralize(gaps, "coverage gap") if gaps else "",
        checkpoint=wording.describe_checkpoint(tested) if tested else "",
        passed=sum(case.outcome == "passed" for case in entry.cases),
        used=closest.used if closest else None,
        used_before=closest.used_before if closest else None,
        drift=wording.describe_drift([entry]),
        charts=_draw_error_charts(entry) if with_charts else [],
        served=make_served_section(entry),
        served_charts=_draw_served_charts(entry) if with_charts else [],
        heat_map=_draw_heat_map(worst, entry.name) if worst else None,
        routing=sorted(flipped, key=lambda layer: not layer.large_flips)[:ROUTING_ROWS],
        routing_summary=_summarize_routing(routing, len(flipped)),
        environment=_list_environment(entry, tested),
        times=make_phase_table(entry),
    )


def _find_worst_case(entry: EntryResult) -> CaseResult | None:
    """Return the failing test, or else the test closest to its limit, for the heat map."""
    with_heat = [case for case in entry.cases if case.evidence and (case.evidence.heat or case.evidence.routing)]
    return max(with_heat, key=lambda case: (case.outcome == "failed", case.used or 0.0), default=None)


def _draw_error_charts(entry: EntryResult) -> list[Figure]:
    """Draw one chart for each test and dtype that was measured, failing tests first, on one scale for each dtype.

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
    tensors = wording.pluralize(len(group.measures), "tensor")
    alike = f"; these {len(group.tests)} coincide" if len(group.tests) > 1 else ""
    caption = f"{' and '.join(group.tests)}, {group.dtype}: {tensors}, {state}{alike}"
    worst = sorted(group.measures, key=lambda measure: (measure.passed, -measure.used))[:NAMED_TENSORS]
    return Figure(mark_safe(charts.draw_error_chart(group.measures, scale)), caption, tuple(worst))


def _draw_served_charts(entry: EntryResult) -> list[Figure]:
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


def _draw_heat_map(case: CaseResult, entry: str) -> Figure | None:
    heat = case.evidence.heat if case.evidence else None
    if heat is None or not heat.rows or not heat.columns:
        return None
    name = wording.shorten_test_id(case.name, entry)
    caption = f"{name}, input {heat.case}, {heat.dtype}: the largest error / limit in each group of tokens"
    return Figure(mark_safe(charts.draw_heat_map(heat)), caption)


def _summarize_routing(layers: Sequence[LayerRouting], flipped: int) -> str:
    """Summarize in how many comparisons a token chose other experts than in the reference."""
    if not layers:
        return ""
    total = f"{len(layers)} comparisons (one for each layer, input and dtype)"
    flips = f"{flipped} of {total} have a routing flip"
    hidden = flipped - ROUTING_ROWS
    more = f"; {hidden} of them are only in report.json" if hidden > 0 else ""
    margin = wording.format_number(min(layer.smallest_margin for layer in layers))
    return f"{flips}{more}. The smallest margin between two experts: {margin} (difference of router logits)."


def _draw_heat_legend() -> Markup:
    borders = charts.HEAT_STEPS
    cells = [f'<path class="heat{level}" d="M{level * 60} 0h60v10h-60z"/>' for level in range(len(borders) + 1)]
    labels = [
        f'<text x="{(i + 1) * 60}" y="22" text-anchor="middle">{10**b:.3g}{" = limit" * (b == 0)}</text>'
        for i, b in enumerate(borders)
    ]
    body = "".join(cells + labels)
    return mark_safe(f'<svg class="legend" viewBox="0 0 560 26" role="img" aria-label="error / limit">{body}</svg>')


def _list_environment(entry: EntryResult, tested: Evidence | None) -> list[tuple[str, str]]:
    host = list(entry.host.items())
    if tested is None:
        return host
    subject = [("subject", wording.describe_subject(tested)), ("device", tested.device)]
    coverage = [(f"coverage: {name}", value) for name, value in tested.coverage.items()]
    return [*subject, *tested.libraries.items(), *host, *coverage]
