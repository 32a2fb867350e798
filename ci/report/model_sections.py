"""The models on the HTML page: the row in the table of models, and the tests and charts below it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.evidence import LayerRouting
from ci.report.change_text import describe_drift
from ci.report.entry_notes import list_coverage_gaps, list_notes
from ci.report.identities import describe_checkpoint, describe_subject
from ci.report.number_format import format_number, pluralize
from ci.report.page_figures import Figure, draw_error_charts, draw_heat_map, draw_served_charts, find_worst_case
from ci.report.phase_times import PhaseTable, make_phase_table
from ci.report.results import EntryResult, find_closest_case, find_most_complete_evidence, group_by_causes
from ci.report.served_section import ServedSection, make_served_section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.evidence import Evidence
    from ci.report.results import Results

ROUTING_ROWS = 200
NAMES_PER_GROUP = 12


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


def group_models(results: Results, models: Sequence[ModelSection], charted: set[str]) -> list[ModelGroup]:
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


def make_model_section(index: int, entry: EntryResult, *, with_charts: bool, unfolded: bool) -> ModelSection:
    """Collect what the page shows of one model; `index` numbers its place on the page."""
    tested = find_most_complete_evidence(entry.cases)
    closest = find_closest_case(entry.cases)
    worst = find_worst_case(entry) if with_charts else None
    routing = worst.evidence.routing if worst and worst.evidence else ()
    flipped = [layer for layer in routing if layer.small_flips or layer.large_flips]
    gaps = len(list_coverage_gaps(entry))
    return ModelSection(
        index=index,
        entry=entry,
        unfolded=unfolded,
        notes=list_notes(entry),
        gaps=pluralize(gaps, "coverage gap") if gaps else "",
        checkpoint=describe_checkpoint(tested) if tested else "",
        passed=sum(case.outcome == "passed" for case in entry.cases),
        used=closest.used if closest else None,
        used_before=closest.used_before if closest else None,
        drift=describe_drift([entry]),
        charts=draw_error_charts(entry) if with_charts else [],
        served=make_served_section(entry),
        served_charts=draw_served_charts(entry) if with_charts else [],
        heat_map=draw_heat_map(worst, entry.name) if worst else None,
        routing=sorted(flipped, key=lambda layer: not layer.large_flips)[:ROUTING_ROWS],
        routing_summary=_summarize_routing(routing, len(flipped)),
        environment=_list_environment(entry, tested),
        times=make_phase_table(entry),
    )


def _summarize_routing(layers: Sequence[LayerRouting], flipped: int) -> str:
    """Summarize in how many comparisons a token chose other experts than in the reference."""
    if not layers:
        return ""
    total = f"{len(layers)} comparisons (one for each layer, input and dtype)"
    flips = f"{flipped} of {total} have a routing flip"
    hidden = flipped - ROUTING_ROWS
    more = f"; {hidden} of them are only in report.json" if hidden > 0 else ""
    margin = format_number(min(layer.smallest_margin for layer in layers))
    return f"{flips}{more}. The smallest margin between two experts: {margin} (difference of router logits)."


def _list_environment(entry: EntryResult, tested: Evidence | None) -> list[tuple[str, str]]:
    host = list(entry.host.items())
    if tested is None:
        return host
    subject = [("subject", describe_subject(tested)), ("device", tested.device)]
    coverage = [(f"coverage: {name}", value) for name, value in tested.coverage.items()]
    return [*subject, *tested.libraries.items(), *host, *coverage]
