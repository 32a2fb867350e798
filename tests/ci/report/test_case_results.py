"""One test: when a pass, a skip or a missing result counts as a failure."""

from __future__ import annotations

import pytest

from ci.evidence import to_property
from ci.report.build_results import build_results
from ci.report.junit import JunitFile, read_junit
from ci.report.results import Attempt, Job, exit_code
from tests.ci.report import samples
from tests.ci.report.samples import Fault, chain, nights, plan_of
from tests.ci.report.single_model import (
    CONVERSION,
    FORWARD,
    find_case,
    make_attempt,
    make_junit_with_evidence,
    run_attempts,
    run_file,
)


def test_everything_skipped_is_not_green() -> None:
    reason = "extra slow: fetches real Hub models; run with --run-extra-slow"
    tests = plan_of("smollm2").entries[0].tests
    results = run_file({test: Fault("skipped", reason, reason, {"raw": ""}) for test in tests})
    assert exit_code(results) == 1
    assert find_case(results, CONVERSION).headline == f"skipped: {reason}"


def test_a_failure_names_its_class_and_its_consequences_are_no_cause() -> None:
    reason = "KeyError: model.layers.0.mlp.gate_proj.weight"
    later = plan_of("smollm2").entries[0].tests[2:]
    fault = Fault("failure", reason, reason, {"failure_class": "missing_tensor"})
    results = run_file({CONVERSION: fault, **chain("smollm2", "test_conversion", reason, steps=later)})
    assert find_case(results, CONVERSION).failure_class == "missing_tensor"
    assert results.totals.consequence == len(later)
    assert [cause.cases for cause in results.causes] == [(("smollm2", CONVERSION),)]


def test_a_skip_that_blames_a_test_which_passed_is_red() -> None:
    results = run_file(dict(chain("smollm2", "test_conversion", "forged", steps=(FORWARD,))))
    assert find_case(results, FORWARD).outcome == "failed"
    assert exit_code(results) == 1


def test_a_pass_whose_own_evidence_says_otherwise_is_red() -> None:
    hidden = {"measures": samples.measures(wrong_from="logits")}  # beyond its limit, while the worst is called fine
    for changes in ({"failure_class": "numeric_mismatch"}, samples.wrong_forward(), hidden):
        value = to_property(samples.evidence_of(FORWARD, "smollm2", **changes))[1]
        assert exit_code(build_results(plan_of("smollm2"), read_junit(make_junit_with_evidence(value)))) == 1


@pytest.mark.parametrize(
    "evidence",
    [
        "{",
        '{"model": "mixtral", "step": "test_forward_equivalence"}',
        '{"model": "smollm2", "step": "test_conversion"}',
    ],
)
def test_a_pass_with_evidence_of_another_test_is_red(evidence: str) -> None:
    results = build_results(plan_of("smollm2"), read_junit(make_junit_with_evidence(evidence)))
    assert exit_code(results) == 1
    assert "evidence" in find_case(results, FORWARD).headline


def test_a_crashed_worker_names_the_test_it_was_running() -> None:
    message = f"failed on setup with \"worker 'gw1' crashed while running 'a.py::{FORWARD}'\""
    results = run_file({FORWARD: Fault("error", message, "x", {"raw": ""})})
    assert find_case(results, FORWARD).failure_class == "crash"
    assert results.causes[0].title == f"the process running {FORWARD} died"


def test_a_crash_without_a_result_names_the_test_that_was_running() -> None:
    results = run_attempts(
        Attempt(1, JunitFile(problem="no result file", missing=True), running=(FORWARD,)), job=Job("failure")
    )
    assert find_case(results, FORWARD).failure_class == "crash"
    assert find_case(results, FORWARD).headline == f"the process running {FORWARD} died"
    assert find_case(results, CONVERSION).headline == "no result file, the job's conclusion is 'failure'"


def test_a_suite_that_was_stopped_by_its_time_limit_did_not_crash() -> None:
    """The test that was running is named. Tests that were not reached have the same class. All of them are red."""
    left: dict[str, Fault | None] = {FORWARD: None, "test_hub_model_conversion[smollm2]": None}
    results = run_attempts(make_attempt(left, running=(FORWARD,), ended="time limit of 8400 s"), job=Job("failure"))
    assert exit_code(results) == 1
    assert results.entries[0].label == "the suite ran out of time: time limit of 8400 s"
    assert (
        find_case(results, FORWARD).headline
        == f"{FORWARD} was running when the suite ran out of time: time limit of 8400 s"
    )
    assert {cause.failure_class for cause in results.causes} == {"timeout"}
    assert exit_code(run_attempts(make_attempt(ended="time limit of 8400 s"), job=Job("success"))) == 0


def test_the_used_tolerance_is_known_for_the_baseline_and_now() -> None:
    results = run_file(baseline=nights(plan_of("smollm2"), {}))
    assert (
        find_case(results, FORWARD).used == find_case(results, FORWARD).used_before == pytest.approx(0.4286, abs=1e-3)
    )
