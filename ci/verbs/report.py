"""`hub-tests report`: judge a folder of results against the plan, on a laptop as in Actions."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.github.commit_results import RESULT_JSON, RunResult, make_run_result
from ci.records import read_json, to_json
from ci.report.build_results import build_results
from ci.report.history import Baseline, read_history
from ci.report.report_files import REPORT_JSON, write_report
from ci.report.result_files import pause_garbage_collection, read_result_files
from ci.report.results import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ci.github.context import Context
    from ci.github.workflow_runs import WorkflowJob
    from ci.hub.fetch import Checkpoint
    from ci.plan import Plan
    from ci.report.results import Job, Results

MAX_LISTINGS = 5
"""How often GitHub is asked while it lists a test job as not completed."""
MAX_LISTING_PAUSE = 10.0
"""Seconds between two listings."""


def make_report(
    plan: Plan,
    results: Path,
    out: Path,
    *,
    baseline: Path | None = None,
    context: Context | None = None,
    problems: Mapping[str, Problem] | None = None,
    fetched: Mapping[str, Checkpoint] | None = None,
) -> Results:
    """Judge the folder `results` and write the report to `out`.

    `fetched` are the checkpoints that the tests were given. With a `context`, GitHub tells how each entry's job ended,
    and the data branch what earlier nights found. Without it there is only the folder, and `baseline`: a history file
    or a folder of them.
    """
    jobs, history, untested = _ask_github(plan, context) if context else (None, Baseline(), {})
    with pause_garbage_collection():
        history = read_baseline(baseline) if baseline else history
        collected = read_result_files(results) if results.exists() or context is None else {}
        known_problems = {**untested, **_find_waiting(jobs), **(problems or {})}
        run_results = build_results(plan, collected, jobs, history, problems=known_problems, fetched=fetched)
        write_report(run_results, out)
    if context:
        _write_run_result(run_results, context, out)
    return run_results


def read_run_result(report: Path) -> RunResult | None:
    """Read what `make_report` wrote for other runs, None if it did not."""
    path = report / RESULT_JSON
    return read_json(RunResult, path.read_bytes(), what=str(path)) if path.is_file() else None


def report_digest(folder: Path) -> str:
    """Return the SHA-256 of the folder's `report.json`, by which a later job recognises it."""
    return hashlib.sha256((folder / REPORT_JSON).read_bytes()).hexdigest()


def read_baseline(path: Path) -> Baseline:
    """Read the history in a file, or in every `*.jsonl` of a folder."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    try:
        return read_history(file.read_text(encoding="utf-8", errors="replace") for file in files)
    except OSError as error:
        raise RequestError(f"{path}: cannot read the baseline: {error.strerror}") from None


def _ask_github(plan: Plan, context: Context) -> tuple[Mapping[str, Job], Baseline, dict[str, Problem]]:
    if context.run_id is None:
        raise RequestError("GITHUB_RUN_ID is not set: outside Actions, leave --github out")
    from ci.github import data_branch, workflow_runs
    from ci.github.client import Client

    run_id, pause = context.run_id, min(context.poll_interval, MAX_LISTING_PAUSE)
    with Client(context.api) as client:
        listed = _list_completed_jobs(lambda: workflow_runs.list_jobs(client, run_id), pause)
        history = data_branch.read_nightly_history(client, context.data_branch)
    jobs = workflow_runs.select_entry_jobs(listed)
    pack, fetch = (workflow_runs.find_job(listed, name) for name in (workflow_runs.PACK_JOB, workflow_runs.FETCH_JOB))
    return jobs, history, _find_untested(plan, jobs, pack, fetch)


def _write_run_result(run_results: Results, context: Context, out: Path) -> None:
    """Write what later runs at this commit read of this one."""
    from ci.github import workflow_runs
    from ci.github.client import Client
    from ci.github.cosmetic import try_cosmetic

    with Client(context.api) as client:
        run = try_cosmetic(
            "when this run was started", lambda: workflow_runs.get_run(client, context.run_id or 0), None
        )
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    started = (run.run_started_at if run else None) or now
    (out / RESULT_JSON).write_text(
        to_json(make_run_result(run_results, context.run_attempt, started)), encoding="utf-8"
    )


def _list_completed_jobs(list_jobs: Callable[[], tuple[WorkflowJob, ...]], pause: float) -> tuple[WorkflowJob, ...]:
    """List the jobs until each test is completed.

    The report begins after the tests, but GitHub's listing may be a little behind.
    """
    jobs = list_jobs()
    for _ in range(MAX_LISTINGS - 1):
        if all(job.status == "completed" for job in jobs if job.entry):
            break
        time.sleep(pause)
        jobs = list_jobs()
    return jobs


def _find_untested(
    plan: Plan, jobs: Mapping[str, Job], pack: WorkflowJob | None, fetch: WorkflowJob | None
) -> dict[str, Problem]:
    """Find entries without a job or without a subject, for a reason outside the subject.

    `pack` hands over a private subject's commit; it is skipped for a public one.
    """
    if pack is not None and pack.conclusion not in ("success", "skipped"):
        problem = Problem("environment", f"nothing was tested: the job that hands over the subject {_tell_end(pack)}")
        return {entry.name: problem for entry in plan.entries}
    if fetch is None or (fetch.conclusion == "success" and jobs):
        return {}
    if fetch.conclusion == "success":
        reason = "the run was cancelled before the first test job"
    else:
        reason = f"the job that fetches the checkpoints {_tell_end(fetch)}"
    problem = Problem("environment", f"nothing was tested: {reason}")
    return {entry.name: problem for entry in plan.entries if entry.name not in jobs}


def _tell_end(job: WorkflowJob) -> str:
    return f"ended as {job.conclusion}" if job.conclusion else f"is {job.status.replace('_', ' ')}"


def _find_waiting(jobs: Mapping[str, Job] | None) -> dict[str, Problem]:
    """Find the entries whose job no runner took: an infrastructure problem, not the subject's."""
    return {
        entry: Problem("environment", f"no machine took this job: {job.note}")
        for entry, job in (jobs or {}).items()
        if job.note
    }
