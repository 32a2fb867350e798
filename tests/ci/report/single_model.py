"""Helpers for tests of a run of one model, smollm2."""

from __future__ import annotations

from typing import Any

from ci.report.build_results import build_results
from ci.report.junit import read_junit
from ci.report.results import Attempt, CaseResult, Job, Results
from tests.ci.report import samples
from tests.ci.report.samples import Fault, junit, make_results, plan_of

FORWARD = "test_forward_equivalence[smollm2]"
CONVERSION = "test_conversion[smollm2]"


def run_file(faults: dict[str, Fault | None] | None = None, **more: Any) -> Results:
    """Return the results of one model, in one file."""
    return make_results(plan_of("smollm2"), faults, **more)


def find_case(results: Results, test: str) -> CaseResult:
    result = results.case("smollm2", test)
    assert result is not None
    return result


def make_attempt(faults: dict[str, Fault | None] | None = None, *, number: int = 1, **more: Any) -> Attempt:
    return Attempt(number, read_junit(junit(plan_of("smollm2"), faults)), **more)


def run_attempts(*known: Attempt, job: Job | None = None, **more: Any) -> Results:
    """Return the results of one model's attempts, as a matrix of jobs leaves them."""
    jobs = {"smollm2": job} if job else None
    return build_results(plan_of("smollm2"), {"smollm2": known} if known else {}, jobs, **more)


def make_junit_with_evidence(evidence: str) -> bytes:
    """Return a green JUnit file in which the forward test passed with this evidence."""
    forged = samples.with_property(FORWARD, evidence).encode()
    return junit(plan_of("smollm2"), {FORWARD: None}).replace(b"</testsuite>", forged + b"</testsuite>")
