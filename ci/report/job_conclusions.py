"""Compare an entry's result files with GitHub's answer about its job. GitHub's answer wins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report.case_results import make_entry_failure
from ci.report.results import Job, Problem
from ci.report.suite_exit import is_interrupted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.evidence import FailureClass
    from ci.plan import PlanEntry
    from ci.report.results import Attempt, CaseResult


def find_job(jobs: Mapping[str, Job] | None, name: str) -> Job | None:
    """Return the job of the entry `name`; None if GitHub was not asked.

    A job that GitHub does not have gets the conclusion "missing".
    """
    return None if jobs is None else jobs.get(name, Job(conclusion="missing", note="no job ran for this entry"))


def select_known_attempts(attempts: Sequence[Attempt], job: Job | None) -> tuple[Sequence[Attempt], tuple[str, ...]]:
    """Return the attempts that GitHub knows, and a note on each ignored one.

    Any job of a run can upload a file with any name, so an attempt that GitHub does not know may be forged.
    """
    if job is None:
        return attempts, ()
    unknown = [attempt.number for attempt in attempts if attempt.number > job.attempt]
    notes = (
        f"ignored the results of attempt {number}: GitHub's newest attempt of this job is {job.attempt}"
        for number in unknown
    )
    return attempts[: len(attempts) - len(unknown)], tuple(notes)


def find_missing_reason(
    entry: PlanEntry, newest: Attempt | None, job: Job | None, problem: Problem | None
) -> Problem | None:
    """Return why the entry's result file is missing or not complete; None if it is complete."""
    if newest is not None and (ended := _find_early_end(entry, newest, job)):
        return ended
    if newest is not None and newest.junit.problem is None:
        return None
    if problem is not None:
        return problem
    file_problem = (newest.junit.problem if newest else None) or "no result file"
    return _explain_by_job(job, file_problem) if job else Problem("missing_result", file_problem)


def _find_early_end(entry: PlanEntry, newest: Attempt, job: Job | None) -> Problem | None:
    """Return why the suite ended before all planned tests had a result; None if it did not.

    A job that takes too long is interrupted by GitHub, which the suite cannot tell from a user.
    """
    if {case.name for case in newest.junit.cases}.issuperset(entry.tests):
        return None
    if is_interrupted(newest) and job is not None and job.conclusion == "timed_out":
        return Problem("timeout", "the job ran out of time")
    if is_interrupted(newest):
        return Problem("interrupted", "the run was interrupted")
    return Problem("timeout", f"the suite ran out of time: {newest.ended}") if newest.ended else None


def _explain_by_job(job: Job, file_problem: str) -> Problem:
    """Return why a result file is missing or not complete, as its job tells."""
    if job.status != "completed":
        return Problem("environment", _describe_open_job(job))
    if job.broke_early:
        step = job.broke_early
        return Problem("environment", f"no code of the subject was run: the job failed in its step '{step}'")
    if job.conclusion == "cancelled":
        return Problem("interrupted", "the job was cancelled")
    if job.conclusion == "timed_out":
        return Problem("timeout", "the job ran out of time")
    return Problem("missing_result", f"{file_problem}, {_describe_conclusion(job)}")


def find_job_failure(entry: PlanEntry, job: Job | None, cases: Sequence[CaseResult]) -> CaseResult | None:
    """Return a failure for a job that did not succeed although no test failed."""
    if job is None or job.conclusion == "success" or any(case.outcome in ("failed", "missing") for case in cases):
        return None
    if job.status != "completed":
        return make_entry_failure(entry, "job", Problem("environment", _describe_open_job(job)))
    explained: dict[str | None, tuple[FailureClass, str]] = {
        "timed_out": ("timeout", "the job ran out of time after its tests had passed"),
        "cancelled": ("interrupted", "the job was cancelled after its tests had passed"),
        "missing": ("missing_result", "there are results, but no job ran for this entry"),
    }
    default: tuple[FailureClass, str] = ("other", f"every test passed, but {_describe_conclusion(job)}")
    return make_entry_failure(entry, "job", Problem(*explained.get(job.conclusion, default)))


def _describe_open_job(job: Job) -> str:
    return f"the job is still {job.status.replace('_', ' ')}"


def _describe_conclusion(job: Job) -> str:
    """Name GitHub's conclusion: success, failure, neutral, skipped, stale, …; it can be absent."""
    return f"the job's conclusion is '{job.conclusion}'" if job.conclusion else "the job has no conclusion"
