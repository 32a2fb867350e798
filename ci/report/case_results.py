"""One test: its JUnit case and its Evidence → CaseResult."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.report.escape import one_line
from ci.report.evidence_parser import parse_evidence
from ci.report.evidence_requirements import find_unexplained_skip, find_unproven
from ci.report.failure_causes import (
    classify_failure,
    extract_headline,
    fingerprint_failure,
    is_infrastructure,
    is_worker_crash,
)
from ci.report.phase_times import complete_phases
from ci.report.results import CaseResult, Problem, find_worst_measure

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from ci.evidence import Evidence, FailureClass
    from ci.plan import PlanEntry
    from ci.report.evidence_requirements import EntryFacts
    from ci.report.history import HistoryCase
    from ci.report.junit import JunitCase

_EARLIER_FAILURE = re.compile(r"\b(test_\w+)(?:\[[^\]]*\])? failed\b")
_HEADLINE_CHARS = 400
_SLIM_MEASURES = 8


def make_case_result(
    entry: PlanEntry,
    case: JunitCase,
    *,
    facts: EntryFacts,
    failed: AbstractSet[str],
    before: HistoryCase | None = None,
    slim: bool = False,
) -> CaseResult:
    """Return the result of a test that is in the result file.

    `facts` are what its evidence must agree with. `failed` are the names of the entry's tests that failed themselves.
    `before` is the test's last conclusive night. With `slim`, a passing test with many measures keeps only the worst.
    """
    evidence, evidence_problem = find_own_evidence(entry, case)
    planned = case.name in entry.tests
    unproven = ""
    if planned and case.outcome == "passed":
        unproven = evidence_problem or find_unproven(facts, case.name, evidence)
    worst = find_worst_measure(evidence)
    if evidence is not None:
        evidence = replace(evidence, worst=worst)
        if slim and case.outcome == "passed" and not unproven and len(evidence.measures) > _SLIM_MEASURES:
            evidence = replace(evidence, measures=(), heat=None, routing=())
    base = CaseResult(
        name=case.name,
        step=parse_step(case.name),
        outcome="passed",
        seconds=case.seconds,
        planned=planned,
        evidence=evidence,
        used=worst.used if worst and case.outcome != "skipped" else None,
        used_before=before.used if before else None,
        phases=complete_phases(evidence, case.seconds),
    )
    if case.outcome == "skipped":
        return _make_skipped(entry, case, base, facts=facts, failed=failed)
    if unproven:
        return _make_failed(entry, base, "unproven", f"reported as passed, but {unproven}")
    if case.outcome == "passed":
        return replace(base, change="fixed") if before and before.outcome == "failed" else base
    failure_class = classify_failure(case, evidence)
    return _make_failed(entry, replace(base, detail=case.detail), failure_class, _choose_headline(case, evidence))


def make_missing_case(entry: PlanEntry, name: str, *, missing_reason: Problem | None, was_running: bool) -> CaseResult:
    """Return the result of a planned test that is not in the result file."""
    base = CaseResult(name=name, step=parse_step(name), outcome="missing")
    if was_running and missing_reason is not None and missing_reason.failure_class == "interrupted":
        return _make_failed(entry, base, "interrupted", missing_reason.message)
    if was_running and missing_reason is not None and missing_reason.failure_class == "timeout":
        return _make_failed(entry, base, "timeout", f"{name} was running when {missing_reason.message}")
    if was_running:
        return _make_failed(entry, base, "crash", f"the process running {name} died")
    if missing_reason is not None:
        return _make_failed(entry, base, missing_reason.failure_class, missing_reason.message)
    return _make_failed(entry, base, "missing_result", "this test was planned, but the result file does not contain it")


def make_entry_failure(entry: PlanEntry, what: str, problem: Problem) -> CaseResult:
    """Return a failure of the entry as a whole, not of one test."""
    base = CaseResult(name=f"{what}[{entry.name}]", step=what, outcome="failed", planned=False)
    return _make_failed(entry, base, problem.failure_class, problem.message)


def parse_step(test: str) -> str:
    """Return the test function of a test id: `test_conversion[mixtral]` → `test_conversion`."""
    return test.split("[", 1)[0]


def _make_failed(entry: PlanEntry, case: CaseResult, failure_class: FailureClass, sentence: str) -> CaseResult:
    sentence = one_line(sentence, _HEADLINE_CHARS) or "failed without a message"
    evidence = case.evidence
    located = f"{evidence.half} {evidence.operation}" if evidence and evidence.operation else ""
    names = (entry.model.model_id, entry.name, case.name)
    return replace(
        case,
        outcome="missing" if case.outcome == "missing" else "failed",
        failure_class=failure_class,
        infrastructure=is_infrastructure(failure_class),
        headline=sentence,
        fingerprint=fingerprint_failure(failure_class, located or sentence, names=names),
    )


def _make_skipped(
    entry: PlanEntry, case: JunitCase, base: CaseResult, *, facts: EntryFacts, failed: AbstractSet[str]
) -> CaseResult:
    """Return the result of a skipped test.

    A skip after a real failure, and a variant that could not run here, are accepted. Any other planned skip is red.
    """
    reason = one_line(extract_headline(case), _HEADLINE_CHARS) or "skipped without a reason"
    earlier = _EARLIER_FAILURE.search(reason)
    if earlier and any(parse_step(name) == earlier[1] for name in failed):
        return replace(base, outcome="consequence", headline=earlier[0], failure_class="dependency")
    evidence = base.evidence
    if evidence is not None and evidence.failure_class == "variant_did_not_run":
        if base.planned and (unproven := find_unexplained_skip(facts, case.name, evidence)):
            return _make_failed(entry, base, "unproven", f"skipped: {unproven}")
        sentence = one_line(evidence.diagnosis, _HEADLINE_CHARS) or reason
        return replace(base, outcome="did_not_run", headline=sentence, failure_class="variant_did_not_run")
    if not base.planned:
        return replace(base, outcome="did_not_run", headline=reason)
    failure_class = evidence.failure_class if evidence and evidence.failure_class else "other"
    return _make_failed(entry, base, failure_class, f"skipped: {reason}")


def find_own_evidence(entry: PlanEntry, case: JunitCase) -> tuple[Evidence | None, str]:
    """Return the case's Evidence, or why it cannot be trusted."""
    if case.evidence is None:
        return None, ""
    try:
        evidence = parse_evidence(case.evidence)
    except RequestError as error:
        return None, f"its evidence is unreadable: {error}"
    if evidence.model != entry.name or evidence.step != parse_step(case.name):
        return None, f"its evidence belongs to {evidence.step}[{evidence.model}]"
    return evidence, ""


def _choose_headline(case: JunitCase, evidence: Evidence | None) -> str:
    if is_worker_crash(case):
        return f"the process running {case.name} died"
    if evidence is not None and evidence.diagnosis:
        return evidence.diagnosis
    return extract_headline(case)
