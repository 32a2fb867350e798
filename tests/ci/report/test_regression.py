"""A run compared with earlier nights: changes of the subject, of the environment, and of Hugging Face."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from ci.report.change_text import describe_cause_change, describe_change
from ci.report.history import Baseline, history_line, make_history_records, read_history
from ci.report.html_page import render_html
from ci.report.markdown import render_markdown
from ci.report.results import exit_code
from ci.report.terminal import render_terminal
from tests.ci.report.samples import INPUTS, Fault, make_results, mismatch, nights, plan_of
from tests.ci.report.single_model import CONVERSION, FORWARD, find_case, run_file

if TYPE_CHECKING:
    from ci.plan import Plan

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
    return read_history(
        [history_line(r) for r in make_history_records(make_results(plan, faults), "2026-11-23T02:00:00Z")]
    )


def test_a_changed_output_of_hugging_face_is_named_in_every_report() -> None:
    plan = plan_of("smollm2", "mistral")
    before = night_of(plan, answered(0.25))
    results = make_results(plan, answered(0.26, oracle="Hugging Face in float64, transformers 5.24.0"), baseline=before)
    said = (
        "Hugging Face's own output changed for the same checkpoint and inputs (Hugging Face in float64, "
        "transformers 5.23.0 on 2026-11-23, Hugging Face in float64, transformers 5.24.0 now): smollm2"
    )
    assert said in results.notes
    assert "Hugging Face's own output changed" in render_markdown(results)
    assert "Hugging Face&#39;s own output changed" in render_html(results)
    console = Console(width=400, record=True, file=StringIO())
    console.print(render_terminal(results))
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
def test_no_change_of_hugging_face_is_reported_without_proof(now: dict[str, Fault]) -> None:
    plan = plan_of("smollm2")
    assert not make_results(plan, now, baseline=night_of(plan, answered(0.25))).notes
    assert not make_results(plan, answered(0.26)).notes


def test_less_memory_for_the_longest_input_hides_no_change_of_hugging_face() -> None:
    plan = plan_of("smollm2")
    shorter = answered(0.26, inputs="batch: 5 x 64 (random, ids 1a2b3c4d); long: 1 x 200 (random, ids 00000000)")
    assert any(
        "own output changed" in note
        for note in make_results(plan, shorter, baseline=night_of(plan, answered(0.25))).notes
    )


def test_a_night_without_a_measurement_does_not_hide_the_night_before() -> None:
    plan = plan_of("smollm2")
    older, newer = (
        make_history_records(make_results(plan, f), f"2026-11-{day}T02:00:00Z")
        for f, day in ((answered(0.25), 21), ({}, 22))
    )
    newer = [replace(record, run_url="https://github.com/org/framework/actions/runs/2") for record in newer]
    baseline = read_history([history_line(record) for record in (*older, *newer)])
    assert len(baseline.records["smollm2"]) == 2
    assert any("own output changed" in note for note in make_results(plan, answered(0.26), baseline=baseline).notes)


def test_coverage_gaps_are_in_every_report_of_a_green_run() -> None:
    plan = plan_of("smollm2")
    why = "not covered: capped at 3098 tokens by 79.1 GB of free memory"
    seen = {**INPUTS, "sliding window": why, "experts": "each of 8 in every layer received a token"}
    results = make_results(plan, {FORWARD: Fault(tag=None, evidence={"coverage": seen})})
    assert results.verdict == "passed"
    said = f"sliding window {why}"
    console = Console(width=400, record=True, file=StringIO())
    console.print(render_terminal(results))
    for text in (render_markdown(results), render_html(results), console.export_text()):
        assert said in text
        assert "each of 8" not in text or text == render_html(results)
    assert "1 coverage gap" in render_markdown(results).split("<details>")[0]


def test_the_baseline_tells_new_known_different_and_fixed() -> None:
    plan = plan_of("smollm2")
    oom = Fault("failure", "CUDA out of memory", "x", {"failure_class": "out_of_memory"})
    before = nights(plan, {}, {FORWARD: mismatch(), CONVERSION: oom})
    results = make_results(plan, {FORWARD: mismatch(), "test_download_and_truncate[smollm2]": oom}, baseline=before)
    assert find_case(results, FORWARD).change == "known"
    assert find_case(results, FORWARD).last_good.startswith("01")
    assert find_case(results, FORWARD).first_bad.startswith("02")
    assert find_case(results, FORWARD).streak == 1
    assert find_case(results, CONVERSION).change == "fixed"
    assert find_case(results, "test_download_and_truncate[smollm2]").change == "new"
    assert find_case(results, "test_hub_model_conversion[smollm2]").change is None
    assert find_case(make_results(plan, {FORWARD: oom}, baseline=before), FORWARD).change == "different"
    assert exit_code(results) == 1
    assert results.baseline.startswith("02")


def test_a_new_failure_that_main_has_seen_before_says_so() -> None:
    plan = plan_of("smollm2")
    results = run_file({FORWARD: mismatch()}, baseline=nights(plan, {FORWARD: mismatch()}, {}, {}))
    assert describe_change(find_case(results, FORWARD)).endswith(", failed in 1 of the last 3 nights")
    assert describe_cause_change(results.causes[0], [find_case(results, FORWARD)]).startswith(
        "newly failing, last good 03"
    )


def test_without_history_nothing_is_called_new() -> None:
    assert find_case(run_file({FORWARD: mismatch()}, baseline=Baseline()), FORWARD).change is None
    assert run_file({FORWARD: mismatch()}, baseline=Baseline()).baseline == ""


def test_infrastructure_is_never_called_new() -> None:
    down = Fault("failure", "x", "x", {"failure_class": "hub_unavailable"})
    assert find_case(run_file({FORWARD: down}, baseline=nights(plan_of("smollm2"), {})), FORWARD).change is None


def test_changes_outside_of_the_subject_are_reported() -> None:
    plan = plan_of("smollm2")
    newer = {"libraries": {"torch": "2.14.0", "transformers": "5.23.0"}, "failure_class": "numeric_mismatch"}
    everywhere = {test: Fault(evidence=newer) for test in plan.entries[0].tests}
    results = make_results(plan, everywhere, baseline=nights(plan, {}))
    assert results.entries[0].drift == {"torch": "2.13.0 → 2.14.0"}
    assert "- also changed since the last nightly run: torch 2.13.0 → 2.14.0\n" in render_markdown(results)
