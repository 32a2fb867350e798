"""From result files to results: a run must never look greener than it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ci.report.build_results import build_results
from ci.report.junit import JunitFile, read_junit
from ci.report.results import Attempt, Job, exit_code
from tests.ci.report import samples
from tests.ci.report.samples import junit, make_results, mismatch, plan_of
from tests.ci.report.single_model import FORWARD, find_case, make_attempt, run_attempts, run_file


def test_a_run_is_green_if_every_planned_test_passed() -> None:
    results = run_file()
    assert (results.verdict, exit_code(results)) == ("passed", 0)
    assert results.totals.passed == results.totals.tests == 7
    assert results.entries[0].label == ""
    assert results.entries[0].notes == ()


@pytest.mark.parametrize("content", [b"", b"<testsuites/>", b"<", b"<!DOCTYPE a><a/>"])
def test_nothing_is_never_green(content: bytes) -> None:
    for results in (
        build_results(plan_of("smollm2"), read_junit(content)),
        run_attempts(Attempt(1, read_junit(content))),
        run_attempts(Attempt(1, read_junit(content)), job=Job("success")),
        run_attempts(),
        run_attempts(job=Job("success")),
    ):
        assert exit_code(results) == 1
        assert results.entries[0].label
        assert {case.outcome for case in results.entries[0].cases} == {"missing"}


def test_a_truncated_file_is_red_even_if_all_its_tests_passed() -> None:
    whole = junit(plan_of("smollm2"))
    for content in (whole[: len(whole) // 2], whole[:-20]):
        results = run_attempts(Attempt(1, read_junit(content)))
        assert exit_code(results) == 1
        assert "cut off" in results.entries[0].label
        assert results.totals.passed > 0


def test_the_worse_of_two_cases_with_one_name_counts() -> None:
    for order in (("<failure message='x'/>", ""), ("", "<failure message='x'/>")):
        twins = "".join(f'<testcase name="{FORWARD}">{inner}</testcase>' for inner in order)
        content = junit(plan_of("smollm2"), {FORWARD: None}).replace(b"</testsuite>", twins.encode() + b"</testsuite>")
        assert exit_code(build_results(plan_of("smollm2"), read_junit(content))) == 1


def test_a_collection_error_concerns_every_model() -> None:
    plan = plan_of("smollm2", "mistral")
    error = '<error message="collection failure">E   ImportError: x</error>'
    broken = f'<testcase classname="" name="tests.integration.test_hub_integration">{error}</testcase>'
    results = build_results(plan, read_junit(samples.document(broken)))
    assert {cause.failure_class for cause in results.causes} == {"collection", "missing_result"}
    assert results.causes[0].failure_class == "collection"
    assert results.causes[0].title == "ImportError: x"
    assert results.causes[0].models == ("smollm2", "mistral")


def test_the_newest_attempt_counts_and_the_older_failure_stays_as_evidence() -> None:
    results = run_attempts(make_attempt({FORWARD: mismatch()}), make_attempt(number=2), job=Job("success", attempt=2))
    assert exit_code(results) == 0
    assert find_case(results, FORWARD).earlier == ("attempt 1: failed",)
    assert results.totals.flaky == 1
    back = run_attempts(
        make_attempt(number=2), make_attempt({FORWARD: mismatch()}, number=3), job=Job("failure", attempt=3)
    )
    assert exit_code(back) == 1


def test_the_order_of_attempts_on_disk_does_not_matter() -> None:
    assert exit_code(run_attempts(make_attempt(number=2), make_attempt({FORWARD: mismatch()}))) == 0


def test_an_older_attempt_that_crashed_is_evidence_too() -> None:
    crashed = Attempt(1, JunitFile(problem="no result file", missing=True), running=(FORWARD,))
    results = run_attempts(crashed, make_attempt(number=2), job=Job("success", attempt=2))
    assert exit_code(results) == 0
    assert find_case(results, FORWARD).earlier == ("attempt 1: crashed",)
    assert results.totals.flaky == 1


def test_results_of_an_entry_that_is_not_planned_are_noted() -> None:
    results = build_results(plan_of("smollm2"), {"smollm2": (make_attempt(),), "evil": (make_attempt(),)})
    assert exit_code(results) == 0
    assert results.notes == ("ignored the results of 'evil': the plan has no such entry",)


def test_a_result_file_counts_for_its_own_entry_only() -> None:
    plan = plan_of("smollm2", "mistral")
    both = read_junit(junit(plan))
    results = build_results(plan, {"smollm2": (Attempt(1, both),)})
    assert [entry.verdict for entry in results.entries] == ["passed", "failed"]


def test_a_large_run_keeps_only_the_worst_measures_of_passing_tests() -> None:
    models = {f"m{n:02d}": replace(samples.MODELS["mixtral"], name=f"m{n:02d}") for n in range(26)}
    failing = "test_moe_implementation[looped-m25]"
    results = make_results(plan_of("*", models=models), {failing: mismatch(moe=True)})
    kept = [sum(len(c.evidence.measures) for c in entry.cases if c.evidence) for entry in results.entries]
    assert kept[0] == kept[23] > 0
    few = len(samples.exact_measures())  # a test with few measures keeps them all
    assert kept[24] == few
    assert kept[25] == len(samples.measures(moe=True)) + few
    assert all(c.evidence.worst for c in results.entries[24].cases if c.evidence and "implementation" in c.name)
    assert results.entries[24].cases[2].used == results.entries[0].cases[2].used
