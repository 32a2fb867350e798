"""GitHub's answer about a job wins over the result file."""

from __future__ import annotations

import pytest

from ci.report.build_results import build_results
from ci.report.results import Job, Problem, exit_code
from tests.ci.report.samples import mismatch, plan_of
from tests.ci.report.single_model import FORWARD, find_case, make_attempt, run_attempts


@pytest.mark.parametrize(
    ("job", "code", "label"),
    [
        (Job("success"), 0, ""),
        (Job("failure"), 1, "every test passed, but the job's conclusion is 'failure'"),
        (Job("timed_out"), 1, "the job ran out of time after its tests had passed"),
        (Job("cancelled"), 3, "the job was cancelled after its tests had passed"),
        (Job("skipped"), 1, "every test passed, but the job's conclusion is 'skipped'"),
        (Job(None), 1, "every test passed, but the job has no conclusion"),
        (Job(None, status="in_progress"), 3, "the job is still in progress"),
    ],
)
def test_the_job_has_the_last_word_over_a_green_file(job: Job, code: int, label: str) -> None:
    results = run_attempts(make_attempt(), job=job)
    assert exit_code(results) == code
    assert results.entries[0].label == label


@pytest.mark.parametrize(
    ("job", "code", "label"),
    [
        (Job("failure"), 1, "no result file, the job's conclusion is 'failure'"),
        (Job("success"), 1, "no result file, the job's conclusion is 'success'"),
        (Job("skipped"), 1, "no result file, the job's conclusion is 'skipped'"),
        (Job("timed_out"), 1, "the job ran out of time"),
        (Job("cancelled"), 3, "the job was cancelled"),
        (Job(None, status="in_progress"), 3, "the job is still in progress"),
    ],
)
def test_a_missing_file_is_explained_by_its_job(job: Job, code: int, label: str) -> None:
    results = run_attempts(job=job)
    assert exit_code(results) == code
    assert results.entries[0].label == label


def test_results_without_a_job_are_not_believed() -> None:
    results = build_results(plan_of("smollm2"), {"smollm2": (make_attempt(),)}, {})
    assert exit_code(results) == 1
    assert results.entries[0].label == "there are results, but no job ran for this entry"


def test_a_known_problem_explains_a_missing_entry_and_blames_nobody() -> None:
    results = run_attempts(problems={"smollm2": Problem("hub_unavailable", "the Hub answered 503")}, job=Job("skipped"))
    assert exit_code(results) == 3
    assert results.entries[0].label == "the Hub answered 503"
    assert (
        exit_code(run_attempts(make_attempt({FORWARD: mismatch()}), problems={"smollm2": Problem("gated", "x")})) == 1
    )


def test_a_newer_attempt_that_left_nothing_is_not_covered_by_an_older_green_one() -> None:
    results = run_attempts(make_attempt(), job=Job("failure", attempt=2))
    assert exit_code(results) == 1
    assert results.entries[0].label == "no result file, the job's conclusion is 'failure'"


def test_an_attempt_that_github_does_not_know_of_is_not_believed() -> None:
    results = run_attempts(make_attempt({FORWARD: mismatch()}), make_attempt(number=2), job=Job("failure"))
    assert exit_code(results) == 1
    assert find_case(results, FORWARD).outcome == "failed"
    assert "ignored the results of attempt 2: GitHub's newest attempt of this job is 1" in results.entries[0].notes
    assert exit_code(run_attempts(make_attempt(number=2), job=Job("success"))) == 1
