"""Results → `report.html`: one self-contained page without scripts or requests. Pure.

Every text is cleaned, then escaped by Jinja; only the SVG of `ci.report.charts` goes in as it is.
"""

from __future__ import annotations

import base64
import hashlib
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.report import charts, figures, words
from ci.report.escape import clean
from ci.report.links import is_link
from ci.report.reproduce import reproduce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment
    from markupsafe import Markup

    from ci.evidence import Evidence, LayerRouting
    from ci.report.outcome import CaseResult, Cause, EntryResult, Results

PAGE = Path(__file__).with_name("page")
WITH_CHARTS = 24
CHARTS_OF_A_MODEL = 40
OPENED = 2
CAUSES = 200
TESTS_OF_A_CAUSE = 60
ROUTING_ROWS = 200


def render(results: Results) -> str:
    """The page as text. Charts are drawn for the first 24 models, failing ones first.

    Every model has its line; the tests are listed for those with charts and for all that failed.
    """
    drawn = sorted(results.entries, key=lambda entry: entry.verdict == "passed")[:WITH_CHARTS]
    charted = {entry.name for entry in drawn}
    listed = charted | {entry.name for entry in results.entries if entry.verdict != "passed"}
    models = [_model(index, entry, drawn=entry.name in charted) for index, entry in enumerate(results.entries)]
    for row in models[:OPENED] if len(models) <= OPENED else []:
        row["open"] = True
    style = (PAGE / "report.css").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            title=words.title(results),
            reason=words.brief(words.reason(results), words.TITLE)[0],
            blame=words.blame(results),
            verdict_icon=words.SIGNS[results.verdict],
            facts=_facts(results),
            run_url=results.plan.request.run_url if is_link(results.plan.request.run_url) else "",
            causes=[_cause(results, cause) for cause in results.causes[:CAUSES]],
            more_causes=max(len(results.causes) - CAUSES, 0),
            models=models,
            listed=listed,
            with_charts=len(charted),
            without_charts=len(results.entries) - len(charted),
            heat_legend=_heat_legend(),
            style=_markup(style),
            style_hash="sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        )
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.globals |= {
        "icons": words.SIGNS,
        "outcomes": words.OUTCOMES,
        "classes": words.CLASSES,
        "changes": words.CHANGES,
        "verdict_icons": words.SIGNS,
        "counted": lambda number: words.count(number, "model"),
        "short": words.short,
        "brief": lambda sentence: words.brief(sentence, words.TITLE)[0],
        "share": figures.share,
        "number": figures.number,
        "duration": figures.duration,
        "meter": lambda used: f"{min(used, 1.0):.4f}" if math.isfinite(used) else "1",
    }
    return environment


def _markup(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 -- our own style sheet, or a chart whose texts are escaped


def _facts(results: Results) -> list[tuple[str, str]]:
    request, totals = results.plan.request, results.totals
    who = f"{request.subject} {request.sha[:12] or request.subject_ref}".strip()
    counts = [(label, str(number)) for number, label in words.counts(totals) if number]
    asked = f"#{request.pull_request}" if request.pull_request else request.trigger.replace("_", " ")
    return [
        ("subject", who),
        ("passed", f"{totals.passed} of {words.count(totals.tests, 'test')}"),
        *counts,
        ("time", figures.duration(totals.seconds)),
        ("asked for by", f"{asked} {request.actor}".strip()),
    ]


def _cause(results: Results, cause: Cause) -> dict[str, Any]:
    cases = words.cases_of(results, cause)
    shown = max(cases, key=lambda case: case.used or 0.0)
    told = next((case for case in cases if case.detail.strip()), None)
    names = [test for _, test in cause.cases]
    state = words.state(cause, cases)
    chips = [("", words.CLASSES[cause.failure_class]), ("", words.count(len(cause.models), "model"))]
    chips += [("", words.count(len(names), "test"))] + ([(cause.change or "", state)] if state else [])
    chips += [("neutral", "infrastructure, not this change")] if cause.infrastructure else []
    title, rest = words.brief(cause.title, words.TITLE)
    return {
        "title": title,
        "rest": rest,
        "chips": chips,
        "worst": shown.evidence.worst if shown.evidence else None,
        "tests": names[:TESTS_OF_A_CAUSE],
        "more": max(len(names) - TESTS_OF_A_CAUSE, 0),
        "reproduce": reproduce(results.plan, cause.cases[0][0], cases[0]),
        "jobs": [
            (name, entry.job.url)
            for name in cause.models[:20]
            if (entry := results.entry(name)) and entry.job and is_link(entry.job.url)
        ],
        "detail": told.detail[-6_000:] if told else "",
        "detail_of": told.name if told else "",
    }


def _model(index: int, entry: EntryResult, *, drawn: bool) -> dict[str, Any]:
    known = words.identity(entry.cases)
    closest = words.closest(entry)
    worst = _worst_case(entry)
    return {
        "index": index,
        "entry": entry,
        "notes": words.notes(entry),
        "gaps": len(words.uncovered(entry)),
        "open": entry.verdict != "passed",
        "about": words.checkpoint(known) if known else "",
        "passed": sum(case.outcome == "passed" for case in entry.cases),
        "used": closest.used if closest else None,
        "used_before": closest.used_before if closest else None,
        "drift": words.moved([entry]),
        "charts": _charts(entry) if drawn else [],
        "heat": _heat(worst, entry.name) if drawn and worst else None,
        **(_routing(worst.evidence.routing) if drawn and worst and worst.evidence else _routing(())),
        "environment": _environment_rows(entry, known),
    }


def _worst_case(entry: EntryResult) -> CaseResult | None:
    """The test whose heat map says most: a failing one before the one closest to its limit."""
    with_heat = [case for case in entry.cases if case.evidence and (case.evidence.heat or case.evidence.routing)]
    return max(with_heat, key=lambda case: (case.outcome == "failed", case.used or 0.0), default=None)


def _charts(entry: EntryResult) -> list[dict[str, Any]]:
    """One chart for each test, variant and dtype that was measured, the red ones first, 40 at most."""
    found: list[dict[str, Any]] = []
    for case in sorted(entry.cases, key=lambda case: case.outcome == "passed"):
        measures = case.evidence.measures if case.evidence and len(found) < CHARTS_OF_A_MODEL else ()
        for dtype in dict.fromkeys(measure.dtype for measure in measures):
            of_dtype = [measure for measure in measures if measure.dtype == dtype]
            if len(of_dtype) > 1:
                red = sum(not measure.passed for measure in of_dtype)
                state = f"{red} beyond the limit" if red else "all within the limit"
                caption = (
                    f"{words.short(case.name, entry.name)}, {dtype}: {words.count(len(of_dtype), 'tensor')}, {state}"
                )
                found.append({"svg": _markup(charts.error_chart(of_dtype)), "caption": caption})
    return found


def _heat(case: CaseResult, entry: str) -> dict[str, Any] | None:
    heat = case.evidence.heat if case.evidence else None
    if heat is None or not heat.rows or not heat.columns:
        return None
    name = words.short(case.name, entry)
    caption = f"{name}, input {heat.case}, {heat.dtype}: largest error over its limit in each bin of tokens"
    return {"svg": _markup(charts.heat_chart(heat)), "caption": caption}


def _routing(layers: Sequence[LayerRouting]) -> dict[str, Any]:
    """The layers where a choice of experts flipped, those of a bug first, and in words what is true of the others."""
    flipped = [layer for layer in layers if layer.small_flips or layer.large_flips]
    shown = sorted(flipped, key=lambda layer: not layer.large_flips)[:ROUTING_ROWS]
    closest = min((layer.smallest_margin for layer in layers), default=0.0)
    calm = f"{len(layers) - len(flipped)} of {len(layers)} without a flip (one for each layer, input and dtype)"
    more = f"; {len(flipped) - len(shown)} more with flips are in report.json" if len(flipped) > len(shown) else ""
    words_ = f"{calm}{more}. The closest call between two experts: {figures.number(closest)} in router logits."
    return {"routing": shown, "routing_words": words_ if layers else ""}


def _heat_legend() -> Markup:
    borders = charts.HEAT_STEPS
    cells = [f'<path class="heat{level}" d="M{level * 60} 0h60v10h-60z"/>' for level in range(len(borders) + 1)]
    labels = [
        f'<text x="{(i + 1) * 60}" y="22" text-anchor="middle">{10**b:.3g}{" = limit" * (b == 0)}</text>'
        for i, b in enumerate(borders)
    ]
    body = "".join(cells + labels)
    return _markup(f'<svg class="legend" viewBox="0 0 560 26" role="img" aria-label="error / limit">{body}</svg>')


def _environment_rows(entry: EntryResult, known: Evidence | None) -> list[tuple[str, str]]:
    rows = list(entry.host.items())
    if known:
        rows = [("subject", words.subject(known)), ("device", known.device), *known.libraries.items(), *rows]
        rows += [(f"coverage: {name}", value) for name, value in known.coverage.items()]
    return rows
