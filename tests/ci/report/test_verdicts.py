"""The verdict of entries and runs: neutral, red, and never green without results."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ci.report.build_results import build_results
from ci.report.headline import format_title
from ci.report.junit import read_junit
from ci.report.results import Job, exit_code
from ci.report.verdicts import describe_entry_problem, find_entry_verdict
from tests.ci.report.samples import Fault, did_not_run, junit, make_results, mismatch, plan_of
from tests.ci.report.single_model import CONVERSION, FORWARD, find_case, make_attempt, run_attempts, run_file


@pytest.mark.parametrize("test", plan_of("smollm2").entries[0].tests)
def test_any_planned_test_that_is_missing_is_red(test: str) -> None:
    results = run_file({test: None})
    assert (results.verdict, exit_code(results)) == ("failed", 1)
    assert find_case(results, test).outcome == "missing"
    assert results.entries[0].label == "6 of 7 planned tests have a result"


def test_a_variant_that_did_not_run_is_shown_and_does_not_count_as_a_pass() -> None:
    test = "test_implementation[attention-flash-smollm2]"
    some = make_results(plan_of("smollm2", subject="fast_llm"), {test: did_not_run("attention=flash", "flash-attn")})
    assert (exit_code(some), find_case(some, test).outcome) == (0, "did_not_run")
    assert "did not run" in format_title(some)
    cases = [replace(case, outcome="did_not_run") for case in some.entries[0].cases if case.step in test]
    others = [case for case in some.entries[0].cases if case.step not in test]
    assert find_entry_verdict([*others, *cases]) == "neutral"
    assert describe_entry_problem(None, [*others, *cases], None) == "no test of test_implementation could run"


@pytest.mark.parametrize(
    ("failure_class", "code"),
    [
        *(("hub_unavailable", 3), ("gated", 3), ("environment", 3), ("crash", 1)),
        *(("not_truncatable", 3), ("remote_code", 3), ("quantized", 3)),
        *(("timeout", 1), ("out_of_memory", 1), ("unsupported", 1), ("other", 1)),
    ],
)
def test_infrastructure_is_neutral_and_all_else_is_red(failure_class: str, code: int) -> None:
    results = run_file({FORWARD: Fault("failure", "x", "x", {"failure_class": failure_class})})
    assert exit_code(results) == code
    assert find_case(results, FORWARD).infrastructure == (code == 3)


def test_a_real_failure_beside_an_infrastructure_one_is_red() -> None:
    down = Fault("failure", "x", "x", {"failure_class": "hub_unavailable"})
    assert exit_code(run_file({FORWARD: mismatch(), CONVERSION: down})) == 1
    assert exit_code(make_results(plan_of(), {FORWARD: down, "test_conversion[mistral]": mismatch()})) == 1


def test_a_model_without_an_answer_beside_one_that_passed_is_not_green() -> None:
    down = Fault("failure", "x", "x", {"failure_class": "hub_unavailable"})
    results = make_results(plan_of("smollm2", "mistral"), {FORWARD: down})
    assert [entry.verdict for entry in results.entries] == ["neutral", "passed"]
    assert (results.verdict, exit_code(results)) == ("neutral", 3)
    assert format_title(results) == "No answer for 1 of 2 models"


def test_an_unplanned_pass_counts_for_nothing_and_an_unplanned_failure_counts() -> None:
    extra = "test_mine[smollm2]"
    passed = junit(plan_of("smollm2")).replace(b"</testsuite>", f'<testcase name="{extra}"/></testsuite>'.encode())
    results = build_results(plan_of("smollm2"), read_junit(passed))
    assert exit_code(results) == 0
    assert "not planned" in results.entries[0].notes[0]
    assert exit_code(run_file({extra: Fault(evidence={"raw": ""})})) == 1


def test_a_successful_job_with_a_red_file_is_noted() -> None:
    results = run_attempts(make_attempt({FORWARD: mismatch()}), job=Job("success"))
    assert exit_code(results) == 1
    assert results.entries[0].notes == (
        "the job succeeded on GitHub, but its result file contains failures: the result file counts",
    )
