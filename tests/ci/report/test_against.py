"""A run against earlier nights: a Hugging Face that moved is named, and nothing is called so without proof."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from ci.report.history import Baseline, history_line, read_history, records_of
from ci.report.html import render as page
from ci.report.markdown import render
from ci.report.terminal import render as terminal
from tests.ci.report.samples import Fault, judged, mismatch, plan_of

if TYPE_CHECKING:
    from ci.plan import Plan

FORWARD = "test_forward_equivalence[smollm2]"
SEEN = {
    "inputs": "batch: 5 x 64 (random, ids 1a2b3c4d); long: 1 x 272 (random, ids 5e6f7a8b)",
    "oracle": "Hugging Face in float64, transformers 5.23.0",
}


def answered(reference: float, **seen: str) -> dict[str, Fault]:
    """A forward test that is red, with Hugging Face's own answer as its one number."""
    facts = {"figures": {"reference_fingerprint": reference}, "coverage": {**SEEN, **seen}}
    return {FORWARD: Fault(evidence={"failure_class": "numeric_mismatch", **facts})}


def night_of(plan: Plan, faults: dict[str, Fault]) -> Baseline:
    """The history after one night, written to lines and read back."""
    return read_history([history_line(r) for r in records_of(judged(plan, faults), "2026-11-23T02:00:00Z")])


def test_a_hugging_face_that_answers_otherwise_than_last_night_is_named_in_every_report() -> None:
    plan = plan_of("smollm2", "mistral")
    before = night_of(plan, answered(0.25))
    results = judged(plan, answered(0.26, oracle="Hugging Face in float64, transformers 5.24.0"), baseline=before)
    said = (
        "Hugging Face itself moved: it answers the same inputs otherwise (Hugging Face in float64, transformers 5.23.0 "
        "on 2026-11-23, Hugging Face in float64, transformers 5.24.0 now): smollm2"
    )
    assert said in results.notes
    assert "Hugging Face itself moved" in render(results)
    assert "Hugging Face itself moved" in page(results)
    console = Console(width=400, record=True, file=StringIO())
    console.print(terminal(results))
    assert said in console.export_text()


@pytest.mark.parametrize(
    "now",
    [
        answered(0.25 + 1e-12),
        answered(0.26, inputs="batch: 5 x 64 (random, ids 99999999); long: 1 x 272 (random, ids 5e6f7a8b)"),
        {FORWARD: Fault(evidence={**answered(0.26)[FORWARD].evidence, "layers": 3})},
        {FORWARD: mismatch()},
    ],
)
def test_a_hugging_face_is_not_said_to_have_moved_where_nothing_shows_it(now: dict[str, Fault]) -> None:
    plan = plan_of("smollm2")
    assert not judged(plan, now, baseline=night_of(plan, answered(0.25))).notes
    assert not judged(plan, answered(0.26)).notes


def test_less_memory_for_the_longest_input_hides_no_move() -> None:
    plan = plan_of("smollm2")
    shorter = answered(0.26, inputs="batch: 5 x 64 (random, ids 1a2b3c4d); long: 1 x 200 (random, ids 00000000)")
    assert any("itself moved" in note for note in judged(plan, shorter, baseline=night_of(plan, answered(0.25))).notes)


def test_a_night_that_measured_nothing_does_not_hide_the_answer_of_the_one_before() -> None:
    plan = plan_of("smollm2")
    older, newer = (
        records_of(judged(plan, f), f"2026-11-{day}T02:00:00Z") for f, day in ((answered(0.25), 21), ({}, 22))
    )
    newer = [replace(record, run_url="https://github.com/org/framework/actions/runs/2") for record in newer]
    baseline = read_history([history_line(record) for record in (*older, *newer)])
    assert len(baseline.records["smollm2"]) == 2
    assert any("itself moved" in note for note in judged(plan, answered(0.26), baseline=baseline).notes)


def test_what_the_inputs_did_not_reach_is_told_in_every_report_of_a_green_run() -> None:
    plan = plan_of("smollm2")
    why = "not covered: capped at 3098 tokens by 79.1 GB of free memory"
    seen = {"sliding window": why, "experts": "each of 8 in every layer received a token"}
    results = judged(plan, {FORWARD: Fault(tag=None, evidence={"coverage": seen})})
    assert results.verdict == "passed"
    said = f"sliding window {why}"
    console = Console(width=400, record=True, file=StringIO())
    console.print(terminal(results))
    for text in (render(results), page(results), console.export_text()):
        assert said in text
        assert "each of 8" not in text or text == page(results)
    assert "1 not covered" in render(results).split("<details>")[0]
