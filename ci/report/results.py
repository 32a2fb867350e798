"""Plan + result files + job conclusions + history → Results. Pure. Never green on nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ci.report.against import against, drift, newest_commit
from ci.report.cases import judge_case, missing_case, synthetic_case
from ci.report.causes import group_causes
from ci.report.history import Baseline
from ci.report.junit import Case, Junit
from ci.report.outcome import (
    Attempt,
    CaseResult,
    EntryResult,
    Job,
    Problem,
    Results,
    Totals,
    Verdict,
    exit_code,
)

if TYPE_CHECKING:
    from ci.evidence import FailureClass
    from ci.plan import Plan, PlanEntry

__all__ = ["Attempt", "Job", "Problem", "Results", "exit_code", "judge_results", "split_by_entry"]

Found = Junit | Attempt | Mapping[str, Sequence[Attempt]]
"""One file with every entry's tests (a laptop), or each entry's attempts (a matrix)."""


def judge_results(
    plan: Plan,
    found: Found,
    jobs: Mapping[str, Job] | None = None,
    baseline: Baseline | None = None,
    *,
    problems: Mapping[str, Problem] | None = None,
) -> Results:
    """Hold what came back against the plan.

    `jobs` are the newest conclusions by entry, None where there is no such authority; `problems` say why an entry
    never reached its tests. A planned test that did not come back is red, whatever else is green.
    """
    attempts = split_by_entry(plan, found) if isinstance(found, Junit | Attempt) else found
    entries = tuple(
        _entry(
            entry,
            sorted(attempts.get(entry.name, ()), key=lambda attempt: attempt.number),
            job=_job(jobs, entry.name),
            problem=(problems or {}).get(entry.name),
            baseline=baseline or Baseline(),
            slim=index >= IN_FULL,
        )
        for index, entry in enumerate(plan.entries)
    )
    strangers = sorted(set(attempts) - {entry.name for entry in plan.entries})
    notes = [f"results of '{name}' came back, which the plan does not hold: ignored" for name in strangers]
    return Results(
        plan=plan,
        verdict=_overall(entries),
        entries=entries,
        causes=group_causes(entries),
        totals=_totals(entries),
        baseline=newest_commit(baseline),
        notes=(*notes, *(baseline.problems if baseline else ())),
    )


IN_FULL = 24
"""From the 25th entry on, passing tests with many measures keep the worst only, so that a report can be opened."""


def split_by_entry(plan: Plan, found: Junit | Attempt) -> dict[str, tuple[Attempt, ...]]:
    """One file of several models, by entry. What belongs to no entry (a collection error) concerns each of them."""
    whole = found if isinstance(found, Attempt) else Attempt(1, found)
    owner = {test: entry.name for entry in plan.entries for test in entry.tests}
    cases: dict[str, list[Case]] = {entry.name: [] for entry in plan.entries}
    for case in whole.junit.cases:
        name = owner.get(case.name) or _owner_by_suffix(case.name, cases)
        for target in [name] if name else cases:
            cases[target].append(case)
    parts = {name: replace(whole.junit, cases=tuple(part)) for name, part in cases.items()}
    return {name: (replace(whole, junit=part),) for name, part in parts.items()}


def _entry(
    entry: PlanEntry,
    attempts: Sequence[Attempt],
    *,
    job: Job | None,
    problem: Problem | None,
    baseline: Baseline,
    slim: bool,
) -> EntryResult:
    newest = attempts[-1] if attempts else None
    if newest is not None and job is not None and job.attempt > newest.number:
        newest = None  # the newest attempt left nothing: an older one's green says nothing about it
    lack = _lack(newest, job, problem)
    cases = _cases(entry, newest, attempts, lack=lack, baseline=baseline, slim=slim)
    ending = _job_case(entry, job, cases)
    if ending is not None:
        cases = (*cases, ending)
    return EntryResult(
        name=entry.name,
        verdict=_verdict(cases),
        cases=cases,
        label=_label(lack, cases, ending),
        notes=_notes(cases, job),
        job=job,
        attempt=newest.number if newest else job.attempt if job else 1,
        seconds=job.seconds if job and job.seconds else sum(case.seconds for case in cases),
        host=newest.host if newest else {},
        drift=drift(entry.name, cases, baseline),
    )


def _cases(
    entry: PlanEntry,
    newest: Attempt | None,
    attempts: Sequence[Attempt],
    *,
    lack: Problem | None,
    baseline: Baseline,
    slim: bool,
) -> tuple[CaseResult, ...]:
    found = _by_name(newest.junit.cases if newest else ())
    failed = {name for name, case in found.items() if case.outcome in ("failed", "error")}
    names = [*entry.tests, *(name for name in found if name not in entry.tests)]
    cases = []
    for name in names:
        case = found.get(name)
        if case is None:
            running = newest.running if newest else ()
            result = missing_case(entry, name, lack=lack, was_running=name in running)
        else:
            before = baseline.last(entry.name, name)
            result = judge_case(entry, case, failed=failed, before=before, slim=slim)
        if earlier := tuple(_earlier(name, [a for a in attempts if a is not newest])):
            result = replace(result, earlier=earlier)
        cases.append(against(result, entry.name, baseline))
    if lack is not None and not any(case.outcome == "missing" for case in cases):
        cases.append(synthetic_case(entry, "result file", lack))
    return tuple(cases)


def _by_name(cases: Sequence[Case]) -> dict[str, Case]:
    """Cases by name; of two with one name the worse counts (pytest writes a failing teardown as a second one)."""
    order = {"failed": 3, "error": 2, "skipped": 1, "passed": 0}
    found: dict[str, Case] = {}
    for case in cases:
        kept = found.get(case.name)
        if kept is None or order[case.outcome] > order[kept.outcome]:
            found[case.name] = case if case.evidence or kept is None else replace(case, evidence=kept.evidence)
    return found


def _lack(newest: Attempt | None, job: Job | None, problem: Problem | None) -> Problem | None:
    """What keeps this entry's result file from being whole, None where it is."""
    if newest is not None and newest.junit.problem is None:
        return None
    if problem is not None:
        return problem
    text = (newest.junit.problem if newest else None) or "no result file"
    if job is None:
        return Problem("missing_result", text)
    if job.status != "completed":
        return Problem("environment", f"the job is still {job.status.replace('_', ' ')}")
    if job.conclusion == "cancelled":
        return Problem("environment", "the job was cancelled")
    if job.conclusion == "timed_out":
        return Problem("timeout", "the job ran out of time")
    return Problem("missing_result", f"{text}, the job ended as {job.conclusion}")


def _job(jobs: Mapping[str, Job] | None, name: str) -> Job | None:
    return None if jobs is None else jobs.get(name, Job(conclusion="missing", note="no job ran for this entry"))


def _job_case(entry: PlanEntry, job: Job | None, cases: Sequence[CaseResult]) -> CaseResult | None:
    """A failure of its own where the job did not succeed and no test explains it."""
    if job is None or job.conclusion == "success" or any(case.outcome in ("failed", "missing") for case in cases):
        return None
    ways: dict[str | None, tuple[FailureClass, str]] = {
        "timed_out": ("timeout", "the job ran out of time after its tests had passed"),
        "cancelled": ("environment", "the job was cancelled after its tests had passed"),
        "missing": ("missing_result", "no job ran for this entry, yet results came back"),
    }
    kind, text = ways.get(job.conclusion, ("other", f"the job ended as {job.conclusion}, yet every test passed"))
    return synthetic_case(entry, "job", Problem(kind, text))


def _verdict(cases: Sequence[CaseResult]) -> Verdict:
    if any(case.red for case in cases):
        return "failed"
    if any(case.outcome in ("failed", "missing") for case in cases):
        return "neutral"
    steps = {case.step for case in cases if case.planned}
    answered = {case.step for case in cases if case.planned and case.outcome == "passed"}
    return "passed" if steps and steps == answered else "neutral"


def _overall(entries: Sequence[EntryResult]) -> Verdict:
    verdicts = {entry.verdict for entry in entries}
    if "failed" in verdicts:
        return "failed"
    return "passed" if verdicts == {"passed"} else "neutral"


def _label(lack: Problem | None, cases: Sequence[CaseResult], ending: CaseResult | None) -> str:
    if lack is not None:
        return lack.message
    if ending is not None:
        return ending.headline
    missing = sum(case.outcome == "missing" for case in cases)
    planned = sum(case.planned for case in cases)
    if missing:
        return f"{planned - missing} of {planned} planned tests came back"
    silent = sorted({c.step for c in cases if c.planned} - {c.step for c in cases if c.outcome != "did_not_run"})
    return f"nothing ran for {', '.join(silent)}" if silent else ""


def _notes(cases: Sequence[CaseResult], job: Job | None) -> tuple[str, ...]:
    notes = []
    if job is not None and job.conclusion == "success" and any(case.red for case in cases):
        notes.append("the job says success, its result file says failed: the file counts")
    if job is not None and job.note:
        notes.append(job.note)
    mute = [c.name for c in cases if c.planned and c.outcome == "passed" and c.evidence is None]
    if mute:
        notes.append(f"{len(mute)} passed tests left no evidence: {', '.join(mute[:3])}")
    extra = [case.name for case in cases if not case.planned and case.outcome == "passed"]
    if extra:
        notes.append(f"{len(extra)} passed tests were not planned and do not count: {', '.join(extra[:3])}")
    return tuple(notes)


def _earlier(name: str, attempts: Sequence[Attempt]) -> list[str]:
    return [
        f"attempt {attempt.number}: {case.outcome}"
        for attempt in attempts
        for case in attempt.junit.cases
        if case.name == name and case.outcome in ("failed", "error")
    ]


def _owner_by_suffix(test: str, names: Mapping[str, object]) -> str | None:
    if not test.endswith("]") or "[" not in test:
        return None
    parameter = test[test.index("[") + 1 : -1]
    owners = [name for name in names if parameter == name or parameter.endswith(f"-{name}")]
    return max(owners, key=len, default=None)


def _totals(entries: Sequence[EntryResult]) -> Totals:
    verdicts = [entry.verdict for entry in entries]
    cases = [case for entry in entries for case in entry.cases]
    outcomes = [case.outcome for case in cases]
    return Totals(
        models=len(entries),
        models_passed=verdicts.count("passed"),
        models_failed=verdicts.count("failed"),
        models_neutral=verdicts.count("neutral"),
        tests=len(cases),
        passed=outcomes.count("passed"),
        failed=outcomes.count("failed"),
        did_not_run=outcomes.count("did_not_run"),
        consequence=outcomes.count("consequence"),
        missing=outcomes.count("missing"),
        flaky=sum(case.outcome == "passed" and bool(case.earlier) for case in cases),
        seconds=sum(entry.seconds for entry in entries),
    )
