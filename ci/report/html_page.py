"""Results → `report.html`: one page without requests to the network; its one script searches, filters and sorts.

Every text is cleaned and then escaped by Jinja. Only the SVG of `ci.report.charts`, which escapes by itself, the style
sheet and the script go in as they are.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from ci.report.cause_sections import CAUSES, make_cause_section, number_causes
from ci.report.change_text import summarize_changes
from ci.report.companion_tables import JUDGEMENTS, build_companion_tables
from ci.report.escape import is_safe_url
from ci.report.headline import TITLE, format_reason, format_title, list_not_passed, split_diagnosis
from ci.report.identities import describe_isolation, label_subject, shorten_test_id
from ci.report.labels import CHANGES, CLASSES, OUTCOMES, SIGNS
from ci.report.model_sections import group_models, make_model_section
from ci.report.number_format import format_duration, format_number, pluralize
from ci.report.page_figures import draw_heat_legend
from ci.report.page_parts import load_parts, make_environment
from ci.report.phase_times import describe_phase, describe_rest, format_seconds
from ci.report.results import find_most_complete_evidence
from ci.report.served_section import EXPLANATION
from ci.units import format_share

if TYPE_CHECKING:
    from jinja2 import Environment

    from ci.report.results import Results

MODELS_WITH_CHARTS = 24
MODELS_ALWAYS_OPEN = 2
"""A report of at most this many models shows all of them unfolded."""
VERSIONS = ("torch", "transformers")
"""The libraries whose versions stand in the header."""


def render_html(results: Results, made: str = "") -> str:
    """Return the page as text; `made` is its date, UTC in ISO 8601, "" where nobody knows it.

    Charts are drawn for the first 24 models, failing ones first. Every model has a row in the table of models. The
    tests are listed for the models with charts and for all that did not pass.
    """
    drawn = sorted(results.entries, key=lambda entry: entry.verdict == "passed")[:MODELS_WITH_CHARTS]
    charted = {entry.name for entry in drawn}
    few = len(results.entries) <= MODELS_ALWAYS_OPEN
    models = [
        make_model_section(index, entry, with_charts=entry.name in charted, unfolded=few or entry.verdict != "passed")
        for index, entry in enumerate(results.entries)
    ]
    return (
        _make_environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            title=format_title(results),
            reason="" if results.causes else format_reason(results, TITLE),
            isolation_warning=describe_isolation(results)[0],
            changes_summary=summarize_changes(results),
            verdict_icon=SIGNS[results.verdict],
            facts=_list_facts(results, made),
            run_url=results.plan.request.run_url if is_safe_url(results.plan.request.run_url) else "",
            causes=[make_cause_section(results, cause) for cause in results.causes[:CAUSES]],
            more_causes=max(len(results.causes) - CAUSES, 0),
            models=models,
            exports=build_companion_tables(results),
            groups=group_models(results, models, charted),
            listed=charted | {entry.name for entry in results.entries if entry.verdict != "passed"},
            with_charts=len(charted),
            without_charts=len(results.entries) - len(charted),
            heat_legend=draw_heat_legend(),
            served_explanation=EXPLANATION,
            parts=load_parts(),
            cause_of=number_causes(results),
        )
    )


@cache
def _make_environment() -> Environment:
    environment = make_environment().overlay()
    environment.globals |= {
        "signs": SIGNS,
        "outcomes": OUTCOMES,
        "classes": CLASSES,
        "changes": CHANGES,
        "judgements": JUDGEMENTS,
        "pluralize": pluralize,
        "shorten_test_id": shorten_test_id,
        "first_clauses": lambda sentence: split_diagnosis(sentence, TITLE)[0],
        "format_share": format_share,
        "format_number": format_number,
        "format_duration": format_duration,
        "format_seconds": format_seconds,
        "describe_phase": describe_phase,
        "describe_rest": describe_rest,
        "meter_value": lambda used: f"{min(used, 1.0):.4f}" if math.isfinite(used) else "1",
    }
    return environment


def _list_facts(results: Results, made: str) -> list[tuple[str, str]]:
    request, totals = results.plan.request, results.totals
    found = (find_most_complete_evidence(entry.cases) for entry in results.entries)
    tested = next((evidence for evidence in found if evidence and evidence.libraries), None)
    version = tested.subject_version if tested else ""
    commit = request.sha[:12] or ((tested.subject_commit or "")[:12] if tested else "")
    label = label_subject(request.subject)
    subject = " ".join(filter(None, [label, version, commit or request.subject_ref]))
    libraries = tested.libraries if tested else {}
    versions = ", ".join(f"{name} {libraries[name]}" for name in VERSIONS if name in libraries)
    counts = [(label, str(number)) for number, label in list_not_passed(totals) if number]
    origin = f"#{request.pull_request}" if request.pull_request else request.trigger.replace("_", " ")
    about = [("date", f"{made[:16].replace('T', ' ')} UTC" if made else ""), ("subject", subject)]
    about += [("device", tested.device if tested else ""), ("versions", versions)]
    return [
        *((name, value) for name, value in about if value),
        ("passed", f"{totals.passed:,} of {pluralize(totals.tests, 'test')}"),
        *counts,
        ("time", format_duration(totals.seconds)),
        *(("", fact) for fact in describe_isolation(results)[1:] if fact),
        ("requested by", f"{origin} {request.actor}".strip()),
    ]
