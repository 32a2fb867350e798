"""Lookups in the records of a run."""

from __future__ import annotations

import pytest

from ci.report.results import (
    EXIT_CODES,
    exit_code,
    find_closest_case,
    find_most_complete_evidence,
    find_reference_evidence,
)
from tests.ci.report import samples
from tests.ci.report.samples import Fault, make_results, plan_of
from tests.ci.report.single_model import FORWARD, run_file

RUNS = ("passing", "failing", "mixed", "crashed", "neutral")


@pytest.mark.parametrize("name", RUNS)
def test_the_exit_code_is_the_verdicts(name: str) -> None:
    results = getattr(samples, name)()
    assert exit_code(results) == EXIT_CODES[results.verdict]


@pytest.mark.parametrize("name", RUNS)
def test_every_failed_case_belongs_to_exactly_one_cause(name: str) -> None:
    results = getattr(samples, name)()
    failed = [case for entry in results.entries for case in entry.cases if case.outcome in ("failed", "missing")]
    by_cause = [case for cause in results.causes for case in results.cases_of(cause)]
    assert sorted(case.name for case in by_cause) == sorted(case.name for case in failed)


def test_a_case_is_found_by_entry_and_name() -> None:
    results = run_file()
    case = results.case("smollm2", FORWARD)
    assert case is not None
    assert case.name == FORWARD
    assert results.case("smollm2", "test_conversion[mixtral]") is None
    assert results.case("mixtral", FORWARD) is None


def test_the_closest_case_used_most_of_its_tolerance() -> None:
    cases = make_results(plan_of("smollm2"), {FORWARD: samples.mismatch()}).entries[0].cases
    closest = find_closest_case(cases)
    assert closest is not None
    assert closest.name == FORWARD
    assert find_closest_case([case for case in cases if case.used is None]) is None


def test_evidence_with_libraries_wins_over_evidence_without() -> None:
    bare = {"libraries": {}, "revision": ""}
    tests = plan_of("smollm2").entries[0].tests
    faults: dict[str, Fault | None] = {test: Fault(tag=None, evidence=bare) for test in tests if test != FORWARD}
    evidence = find_most_complete_evidence(run_file(faults).entries[0].cases)
    assert evidence is not None
    assert evidence.step == "test_forward_equivalence"
    assert find_most_complete_evidence([]) is None


def test_the_reference_evidence_holds_its_fingerprint() -> None:
    fingerprint = Fault(tag=None, evidence={"figures": {"reference_fingerprint": 0.25}})
    evidence = find_reference_evidence(run_file({FORWARD: fingerprint}).entries[0].cases)
    assert evidence is not None
    assert evidence.figures["reference_fingerprint"] == 0.25
    assert find_reference_evidence(run_file().entries[0].cases) is None
