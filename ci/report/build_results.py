"""Plan + result files + job conclusions + history → Results. A run without results is never green."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ci.known_refusals import describe_left_out
from ci.report.case_results import find_own_evidence, make_case_result, make_entry_failure, make_missing_case
from ci.report.evidence_requirements import DOWNLOAD_STEP, EntryFacts, collect_facts
from ci.report.failure_causes import group_causes
from ci.report.history import Baseline
from ci.report.job_conclusions import find_job, find_job_failure, find_missing_reason, select_known_attempts
from ci.report.junit import JunitCase, JunitFile
from ci.report.phase_times import sum_phases
from ci.report.refusal_verdicts import judge_refusal
from ci.report.regression import compare_with_baseline, find_drift, find_newest_commit, find_reference_changes
from ci.report.results import Attempt, CaseResult, EntryResult, Job, Problem, Results
from ci.report.suite_exit import find_exit_failure, find_exit_problem
from ci.report.verdicts import (
    count_totals,
    describe_entry_problem,
    find_entry_verdict,
    find_run_verdict,
    list_entry_notes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.hub.fetch import Checkpoint
    from ci.plan import Plan, PlanEntry, RunRequest
    from ci.report.results import ResultFiles

FULL_EVIDENCE_ENTRIES = 24
"""Later entries keep only the worst measure of a passing test with many, so that a browser can open the report."""


def build_results(
    plan: Plan,
    files: ResultFiles,
    jobs: Mapping[str, Job] | None = None,
    baseline: Baseline | None = None,
    *,
    problems: Mapping[str, Problem] | None = None,
    fetched: Mapping[str, Checkpoint] | None = None,
) -> Results:
    """Compare the result files with the plan and return the result of the run.

    `jobs` are GitHub's newest jobs by entry, None where GitHub was not asked. `problems` say why an entry never
    reached its tests. `fetched` are the checkpoints that the tests were given: each test must name its own. A planned
    test without a result is red, even if all others are green, and so is one whose evidence does not prove its pass.
    """
    if baseline:
        baseline = baseline.select_subsets({entry.name: entry.model.subset for entry in plan.entries})
    attempts = split_by_entry(plan, files) if isinstance(files, JunitFile | Attempt) else files
    entries = tuple(
        _build_entry(
            entry,
            sorted(attempts.get(entry.name, ()), key=lambda attempt: attempt.number),
            request=plan.request,
            fetched=(fetched or {}).get(entry.name),
            job=find_job(jobs, entry.name),
            problem=(problems or {}).get(entry.name),
            baseline=baseline or Baseline(),
            slim=index >= FULL_EVIDENCE_ENTRIES,
        )
        for index, entry in enumerate(plan.entries)
    )
    unplanned = sorted(set(attempts) - {entry.name for entry in plan.entries})
    left_out = describe_left_out(plan.left_out)
    notes = [*([left_out] if left_out else [])]
    notes += [f"ignored the results of '{name}': the plan has no such entry" for name in unplanned]
    return Results(
        plan=plan,
        verdict=find_run_verdict(entries),
        entries=entries,
        causes=group_causes(entries),
        totals=count_totals(entries),
        baseline=find_newest_commit(baseline),
        notes=(*notes, *find_reference_changes(entries, baseline), *(baseline.problems if baseline else ())),
    )


def split_by_entry(plan: Plan, file: JunitFile | Attempt) -> dict[str, tuple[Attempt, ...]]:
    """Split one file of several models by entry; a collection error goes to each of them."""
    whole = file if isinstance(file, Attempt) else Attempt(1, file)
    owner = {test: entry.name for entry in plan.entries for test in entry.tests}
    cases: dict[str, list[JunitCase]] = {entry.name: [] for entry in plan.entries}
    for case in whole.junit.cases:
        name = owner.get(case.name) or _find_owner_by_suffix(case.name, cases)
        for target in [name] if name else cases:
            cases[target].append(case)
    parts = {name: replace(whole.junit, cases=tuple(part)) for name, part in cases.items()}
    problem = _find_problem_of_all(plan, whole)
    return {name: (replace(whole, junit=part, is_part=True, problem=problem),) for name, part in parts.items()}


def _find_problem_of_all(plan: Plan, whole: Attempt) -> Problem | None:
    """Return how the exit code contradicts one file of several models.

    A model that was finished before an interruption has its result.
    """
    problem = find_exit_problem(whole)
    complete = {case.name for case in whole.junit.cases}.issuperset(test for e in plan.entries for test in e.tests)
    return None if problem and problem.failure_class == "interrupted" and not complete else problem


def _build_entry(
    entry: PlanEntry,
    attempts: Sequence[Attempt],
    *,
    request: RunRequest,
    fetched: Checkpoint | None,
    job: Job | None,
    problem: Problem | None,
    baseline: Baseline,
    slim: bool,
) -> EntryResult:
    attempts, ignored = select_known_attempts(attempts, job)
    newest = attempts[-1] if attempts else None
    if newest is not None and job is not None and job.attempt > newest.number:
        newest = None  # the newest attempt has no result file; a green older attempt does not replace it
    missing_reason = find_missing_reason(entry, newest, job, problem)
    facts = _collect_facts(entry, newest, request, fetched)
    cases = _build_cases(
        entry, newest, attempts, facts=facts, missing_reason=missing_reason, baseline=baseline, slim=slim
    )
    entry_failure = find_job_failure(entry, job, cases) or find_exit_failure(entry, newest, cases)
    if entry_failure is not None:
        cases = (*cases, entry_failure)
    result = EntryResult(
        name=entry.name,
        verdict=find_entry_verdict(cases),
        cases=cases,
        label=describe_entry_problem(missing_reason, cases, entry_failure),
        notes=(*ignored, *list_entry_notes(cases, job, newest)),
        job=job,
        attempt=newest.number if newest else job.attempt if job else 1,
        seconds=job.seconds if job and job.seconds else sum(case.seconds for case in cases),
        host=newest.host if newest else {},
        drift=find_drift(entry.name, cases, baseline),
        phases=sum_phases(case.phases for case in cases),
    )
    return judge_refusal(entry, request.subject, result)


def _collect_facts(
    entry: PlanEntry, newest: Attempt | None, request: RunRequest, fetched: Checkpoint | None
) -> EntryFacts:
    """Collect what the evidence of the entry's tests must agree with."""
    download = f"{DOWNLOAD_STEP}[{entry.name}]"
    case = next((case for case in (newest.junit.cases if newest else ()) if case.name == download), None)
    return collect_facts(entry, request, fetched, find_own_evidence(entry, case)[0] if case else None)


def _build_cases(
    entry: PlanEntry,
    newest: Attempt | None,
    attempts: Sequence[Attempt],
    *,
    facts: EntryFacts,
    missing_reason: Problem | None,
    baseline: Baseline,
    slim: bool,
) -> tuple[CaseResult, ...]:
    by_name = _index_by_name(newest.junit.cases if newest else ())
    failed = {name for name, case in by_name.items() if case.outcome in ("failed", "error")}
    older = [attempt for attempt in attempts if attempt is not newest]
    results = []
    for name in [*entry.tests, *(name for name in by_name if name not in entry.tests)]:
        case = by_name.get(name)
        if case is None:
            was_running = newest is not None and name in newest.running
            result = make_missing_case(entry, name, missing_reason=missing_reason, was_running=was_running)
        else:
            before = baseline.last_case(entry.name, name)
            result = make_case_result(entry, case, facts=facts, failed=failed, before=before, slim=slim)
        if earlier := tuple(_list_earlier_failures(name, older)):
            result = replace(result, earlier=earlier)
        results.append(compare_with_baseline(result, entry.name, baseline))
    if missing_reason is not None and not any(result.outcome == "missing" for result in results):
        results.append(make_entry_failure(entry, "result file", missing_reason))
    return tuple(results)


def _index_by_name(cases: Sequence[JunitCase]) -> dict[str, JunitCase]:
    """Index the cases by name; if two have one name, keep the worse.

    pytest writes a failing teardown as a second case with the same name.
    """
    severity = {"failed": 3, "error": 2, "skipped": 1, "passed": 0}
    by_name: dict[str, JunitCase] = {}
    for case in cases:
        kept = by_name.get(case.name)
        if kept is None or severity[case.outcome] > severity[kept.outcome]:
            by_name[case.name] = case if case.evidence or kept is None else replace(case, evidence=kept.evidence)
    return by_name


def _list_earlier_failures(name: str, attempts: Sequence[Attempt]) -> list[str]:
    """List how the test failed in older attempts.

    A crash leaves only the name of the test that was running.
    """
    failures = []
    for attempt in attempts:
        outcomes: list[str] = [case.outcome for case in attempt.junit.cases if case.name == name]
        bad = [outcome for outcome in outcomes if outcome in ("failed", "error")]
        bad += ["crashed"] if name in attempt.running and not bad else []
        failures += [f"attempt {attempt.number}: {outcome}" for outcome in bad]
    return failures


def _find_owner_by_suffix(test: str, names: Mapping[str, object]) -> str | None:
    """Return the longest entry name that ends the test's parameter, as in `test_x[variant-mixtral]`."""
    if not test.endswith("]") or "[" not in test:
        return None
    parameter = test[test.index("[") + 1 : -1]
    owners = [name for name in names if parameter == name or parameter.endswith(f"-{name}")]
    return max(owners, key=len, default=None)
