"""One test: JUnit's case and its Evidence → CaseResult. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.report.causes import fingerprint
from ci.report.classify import classify, crashed, headline, is_infrastructure
from ci.report.escape import one_line
from ci.report.outcome import CaseResult, Problem
from ci.report.testimony import read_evidence

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from ci.evidence import Evidence, FailureClass
    from ci.plan import PlanEntry
    from ci.report.history import HistoryCase
    from ci.report.junit import Case

_UPSTREAM = re.compile(r"\b(test_\w+)(?:\[[^\]]*\])? failed\b")
_HEADLINE = 400
_FEW = 8


def judge_case(
    entry: PlanEntry, case: Case, *, failed: AbstractSet[str], before: HistoryCase | None = None, slim: bool = False
) -> CaseResult:
    """What a case that came back means; `failed` are the names of the entry's cases that failed outright.

    `before` is the baseline's last word on the test. With `slim`, a passing test with many
    measures keeps only the worst of them.
    """
    evidence, forged = _evidence(entry, case)
    used = None if case.outcome == "skipped" else _used(evidence)
    disowned = case.outcome == "passed" and bool(forged or _disowned(evidence))
    if slim and case.outcome == "passed" and evidence is not None and len(evidence.measures) > _FEW:
        evidence = replace(evidence, measures=(), heat=None, routing=())
    base = CaseResult(
        name=case.name,
        step=step_of(case.name),
        outcome="passed",
        seconds=case.seconds,
        planned=case.name in entry.tests,
        evidence=evidence,
        used=used,
        used_before=before.used if before else None,
    )
    if case.outcome == "skipped":
        return _skipped(entry, case, base, failed=failed)
    if case.outcome == "passed" and not (base.planned and disowned):
        return replace(base, change="fixed") if before and before.outcome == "failed" else base
    kind = classify(case, evidence)
    sentence = forged if case.outcome == "passed" and forged else _sentence(case, evidence)
    return _red(entry, replace(base, detail=case.detail), kind, sentence)


def missing_case(entry: PlanEntry, name: str, *, lack: Problem | None, was_running: bool) -> CaseResult:
    """A planned test that did not come back."""
    base = CaseResult(name=name, step=step_of(name), outcome="missing")
    if was_running and lack is not None and lack.failure_class == "timeout":
        return _red(entry, base, "timeout", f"{name} was running when {lack.message}")
    if was_running:
        return _red(entry, base, "crash", f"the process running {name} died")
    if lack is not None:
        return _red(entry, base, lack.failure_class, lack.message)
    return _red(entry, base, "missing_result", "planned, but did not come back")


def synthetic_case(entry: PlanEntry, what: str, problem: Problem) -> CaseResult:
    """A failure that belongs to the entry, not to one of its tests."""
    base = CaseResult(name=f"{what}[{entry.name}]", step=what, outcome="failed", planned=False)
    return _red(entry, base, problem.failure_class, problem.message)


def step_of(test: str) -> str:
    """The test function of an id: `test_conversion[mixtral]` → `test_conversion`."""
    return test.split("[", 1)[0]


def _red(entry: PlanEntry, case: CaseResult, kind: FailureClass, sentence: str) -> CaseResult:
    sentence = one_line(sentence, _HEADLINE) or "failed without a message"
    evidence = case.evidence
    located = f"{evidence.half} {evidence.operation}" if evidence and evidence.operation else ""
    names = (entry.model.model_id, entry.name, case.name)
    return replace(
        case,
        outcome="missing" if case.outcome == "missing" else "failed",
        failure_class=kind,
        infrastructure=is_infrastructure(kind),
        headline=sentence,
        fingerprint=fingerprint(kind, located or sentence, names=names),
    )


def _skipped(entry: PlanEntry, case: Case, base: CaseResult, *, failed: AbstractSet[str]) -> CaseResult:
    reason = one_line(headline(case), _HEADLINE) or "skipped without a reason"
    upstream = _UPSTREAM.search(reason)
    if upstream and any(step_of(name) == upstream[1] for name in failed):
        return replace(base, outcome="consequence", headline=upstream[0], failure_class="dependency")
    evidence = base.evidence
    if evidence is not None and evidence.failure_class == "variant_did_not_run":
        sentence = one_line(evidence.diagnosis, _HEADLINE) or reason
        return replace(base, outcome="did_not_run", headline=sentence, failure_class="variant_did_not_run")
    if not base.planned:
        return replace(base, outcome="did_not_run", headline=reason)
    kind = evidence.failure_class if evidence and evidence.failure_class else "other"
    return _red(entry, base, kind, f"skipped: {reason}")


def _evidence(entry: PlanEntry, case: Case) -> tuple[Evidence | None, str]:
    """The case's Evidence, and what is wrong with it where it cannot be believed."""
    if case.evidence is None:
        return None, ""
    try:
        evidence = read_evidence(case.evidence)
    except RequestError as error:
        return None, f"unreadable evidence: {error}"
    if evidence.model != entry.name or evidence.step != step_of(case.name):
        return None, f"the evidence speaks of {evidence.step}[{evidence.model}], not of this test"
    return evidence, ""


def _disowned(evidence: Evidence | None) -> bool:
    """Whether a test that calls itself passed recorded the contrary."""
    if evidence is None:
        return False
    measures = evidence.measures if evidence.worst is None else (evidence.worst, *evidence.measures)
    return evidence.failure_class is not None or any(not measure.passed for measure in measures)


def _sentence(case: Case, evidence: Evidence | None) -> str:
    if crashed(case):
        return f"the process running {case.name} died"
    if evidence is not None and evidence.diagnosis:
        return evidence.diagnosis
    said = headline(case)
    if said:
        return said
    return "passed, yet its own evidence says otherwise" if case.outcome == "passed" else "failed without a message"


def _used(evidence: Evidence | None) -> float | None:
    """The largest share of a tolerance used. A bit-exact comparison that held has used nothing of its limit of 0."""
    if evidence is None:
        return None
    measures = evidence.measures or ((evidence.worst,) if evidence.worst else ())
    shares = [measure.used if measure.limit or not measure.passed else 0.0 for measure in measures]
    if any(map(math.isnan, shares)):
        return math.inf
    return max(shares, default=None)
