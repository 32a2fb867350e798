"""What GitHub says of an entry's job, held against the result file that came back: the job is the truth. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report.cases import synthetic_case
from ci.report.outcome import Job, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.evidence import FailureClass
    from ci.plan import PlanEntry
    from ci.report.outcome import Attempt, CaseResult


def believable(attempts: Sequence[Attempt], job: Job | None) -> tuple[Sequence[Attempt], tuple[str, ...]]:
    """The attempts that GitHub knows of, and what to say of others: any job of a run can leave a file of any name."""
    if job is None:
        return attempts, ()
    foreign = [attempt.number for attempt in attempts if attempt.number > job.attempt]
    notes = (
        f"results of attempt {number} came back, but its last one was {job.attempt}: ignored" for number in foreign
    )
    return attempts[: len(attempts) - len(foreign)], tuple(notes)


def lack_of(entry: PlanEntry, newest: Attempt | None, job: Job | None, problem: Problem | None) -> Problem | None:
    """What keeps this entry's result file from being whole, None where it is."""
    if newest is not None and newest.ended and not {case.name for case in newest.junit.cases}.issuperset(entry.tests):
        return Problem("timeout", f"the suite ran out of time: {newest.ended}")
    if newest is not None and newest.junit.problem is None:
        return None
    if problem is not None:
        return problem
    text = (newest.junit.problem if newest else None) or "no result file"
    if job is None:
        return Problem("missing_result", text)
    if job.status != "completed":
        return Problem("environment", f"the job is still {job.status.replace('_', ' ')}")
    if job.broke_early:
        return Problem("environment", f"nothing of the subject was run: the job broke in its step '{job.broke_early}'")
    if job.conclusion == "cancelled":
        return Problem("environment", "the job was cancelled")
    if job.conclusion == "timed_out":
        return Problem("timeout", "the job ran out of time")
    return Problem("missing_result", f"{text}, the job ended as {job.conclusion}")


def job_of(jobs: Mapping[str, Job] | None, name: str) -> Job | None:
    """The job of the entry `name`; one that is missing where GitHub knows of none, None where nobody was asked."""
    return None if jobs is None else jobs.get(name, Job(conclusion="missing", note="no job ran for this entry"))


def ending_of(entry: PlanEntry, job: Job | None, cases: Sequence[CaseResult]) -> CaseResult | None:
    """A failure of its own where the job did not succeed and no test explains it."""
    if job is None or job.conclusion == "success" or any(case.outcome in ("failed", "missing") for case in cases):
        return None
    ways: dict[str | None, tuple[FailureClass, str]] = {
        "timed_out": ("timeout", "the job ran out of time after its tests had passed"),
        "cancelled": ("environment", "the job was cancelled after its tests had passed"),
        "missing": ("missing_result", "no job ran for this entry, yet results came back"),
    }
    if job.status != "completed":
        ways = {job.conclusion: ("environment", f"the job is still {job.status.replace('_', ' ')}")}
    kind, text = ways.get(job.conclusion, ("other", f"the job ended as {job.conclusion}, yet every test passed"))
    return synthetic_case(entry, "job", Problem(kind, text))
