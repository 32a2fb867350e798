"""Plan + result files + job conclusions + history → Results. Pure. Never green on nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ci.report.against import against, drift, newest_commit, reference_moves
from ci.report.cases import judge_case, missing_case, synthetic_case
from ci.report.causes import group_causes
from ci.report.history import Baseline
from ci.report.jobs import believable, ending_of, job_of, lack_of
from ci.report.junit import Case, Junit
from ci.report.outcome import Attempt, CaseResult, EntryResult, Job, Problem, Results, exit_code
from ci.report.verdicts import label_of, notes_of, overall_verdict, totals_of, verdict_of

if TYPE_CHECKING:
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
            job=job_of(jobs, entry.name),
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
        verdict=overall_verdict(entries),
        entries=entries,
        causes=group_causes(entries),
        totals=totals_of(entries),
        baseline=newest_commit(baseline),
        notes=(*notes, *reference_moves(entries, baseline), *(baseline.problems if baseline else ())),
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
    attempts, foreign = believable(attempts, job)
    newest = attempts[-1] if attempts else None
    if newest is not None and job is not None and job.attempt > newest.number:
        newest = None  # the newest attempt left nothing: an older one's green says nothing about it
    lack = lack_of(entry, newest, job, problem)
    cases = _cases(entry, newest, attempts, lack=lack, baseline=baseline, slim=slim)
    ending = ending_of(entry, job, cases)
    if ending is not None:
        cases = (*cases, ending)
    return EntryResult(
        name=entry.name,
        verdict=verdict_of(cases),
        cases=cases,
        label=label_of(lack, cases, ending),
        notes=(*foreign, *notes_of(cases, job)),
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


def _earlier(name: str, attempts: Sequence[Attempt]) -> list[str]:
    """How the test ended in older attempts, where it was not well: a crash leaves its name only."""
    found = []
    for attempt in attempts:
        bad: list[str] = [case.outcome for case in attempt.junit.cases if case.name == name]
        bad = [outcome for outcome in bad if outcome in ("failed", "error")]
        bad += ["crashed"] if name in attempt.running and not bad else []
        found += [f"attempt {attempt.number}: {outcome}" for outcome in bad]
    return found


def _owner_by_suffix(test: str, names: Mapping[str, object]) -> str | None:
    if not test.endswith("]") or "[" not in test:
        return None
    parameter = test[test.index("[") + 1 : -1]
    owners = [name for name in names if parameter == name or parameter.endswith(f"-{name}")]
    return max(owners, key=len, default=None)
