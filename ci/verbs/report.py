"""`hub-tests report`: a folder of results against the plan, on a laptop as in Actions."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.report.build_results import build_results
from ci.report.history import Baseline, read_history
from ci.report.report_files import REPORT_JSON, write_report
from ci.report.result_files import pause_garbage_collection, read_result_files
from ci.report.results import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ci.github.context import Context
    from ci.github.runs import RunJob
    from ci.plan import Plan
    from ci.report.results import Job, Results

LAG = 4
"""How often GitHub is asked again while it lists a test as not over."""


def report(
    plan: Plan,
    results: Path,
    out: Path,
    *,
    baseline: Path | None = None,
    context: Context | None = None,
    problems: Mapping[str, Problem] | None = None,
) -> Results:
    """Judge `results` and write the report to `out`.

    With a `context` GitHub says how each entry's job ended, and the data branch what earlier nights found; without,
    there is only the folder, and `baseline`: a history file or a folder of them.
    """
    jobs, history, untested = _from_github(plan, context) if context else (None, Baseline(), {})
    with pause_garbage_collection():
        history = read_baseline(baseline) if baseline else history
        found = read_result_files(results) if results.exists() or context is None else {}
        judged = build_results(plan, found, jobs, history, problems={**untested, **_waiting(jobs), **(problems or {})})
        write_report(judged, out)
    return judged


def report_digest(folder: Path) -> str:
    """SHA-256 of the folder's `report.json`, by which a later job knows it again."""
    return hashlib.sha256((folder / REPORT_JSON).read_bytes()).hexdigest()


def read_baseline(path: Path) -> Baseline:
    """The history in a file, or in every `*.jsonl` of a folder."""
    paths = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    try:
        return read_history(found.read_text(encoding="utf-8", errors="replace") for found in paths)
    except OSError as error:
        raise RequestError(f"{path}: cannot read the baseline: {error.strerror}") from None


def _from_github(plan: Plan, context: Context) -> tuple[Mapping[str, Job], Baseline, dict[str, Problem]]:
    if context.run_id is None:
        raise RequestError("GITHUB_RUN_ID is not set: outside Actions, leave --github out")
    from ci.github import branch, runs
    from ci.github.client import Client

    with Client(context.api) as client:
        found = _ended(lambda: runs.jobs(client, context.run_id or 0), min(context.poll, 10.0))
        history = branch.read_history_of(client, context.data_branch)
    jobs = runs.entry_jobs(found)
    return jobs, history, _untested(plan, jobs, runs.fetch_job(found))


def _ended(ask: Callable[[], tuple[RunJob, ...]], pause: float) -> tuple[RunJob, ...]:
    """The jobs once each test is over, which it is when the report begins: GitHub's listing may lag a little behind."""
    found = ask()
    for _ in range(LAG):
        if all(job.status == "completed" for job in found if job.entry):
            break
        time.sleep(pause)
        found = ask()
    return found


def _untested(plan: Plan, jobs: Mapping[str, Job], fetch: RunJob | None) -> dict[str, Problem]:
    """Entries for which no job was made, where it is known why: nothing of the subject was run."""
    if fetch is None or (fetch.conclusion == "success" and jobs):
        return {}
    ended = f"ended as {fetch.conclusion}" if fetch.conclusion else f"is {fetch.status.replace('_', ' ')}"
    why = f"the job that fetches the checkpoints {ended}"
    why = "the run was cancelled before the first test job" if fetch.conclusion == "success" else why
    problem = Problem("environment", f"nothing was tested: {why}")
    return {entry.name: problem for entry in plan.entries if entry.name not in jobs}


def _waiting(jobs: Mapping[str, Job] | None) -> dict[str, Problem]:
    """Entries whose job no machine took: the runners' fault, not the subject's."""
    return {
        entry: Problem("environment", f"no machine took this job: {job.note}")
        for entry, job in (jobs or {}).items()
        if job.note
    }
