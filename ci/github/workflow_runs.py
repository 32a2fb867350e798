"""Workflow runs and their jobs: what GitHub itself reports about an entry, which no test can forge."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ci.github.api import ConflictError, NotFoundError
from ci.report.results import Job

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ci.github.client import Client

ENTRY_JOB = re.compile(r"test (?P<entry>[a-z0-9][a-z0-9_-]{0,62})")
FETCH_JOB, PACK_JOB = "fetch", "subject"
REPORT_JOB = "report"
WORKFLOW_FILE = re.compile(r"(?:^|/)\.github/workflows/hub-tests\.yml(?:@|$)")
"""The workflow that tests; its path may begin with the repository, and end with the commit."""

SUBJECT_STEP = "Build the subject and run the suite"
"""The first step of a test job that runs code of the subject; the steps before it are the service's own."""

COMPLETED = "completed"


@dataclass(frozen=True)
class ReferencedWorkflow:
    """A workflow that a run calls: `owner/name/.github/workflows/file@commit`."""

    path: str


@dataclass(frozen=True)
class WorkflowRun:
    """One run of a workflow. `status` is "completed" at its end, `path` the workflow's file."""

    id: int
    status: str
    html_url: str
    head_sha: str = ""
    run_attempt: int = 1
    event: str = ""
    run_started_at: str | None = None
    path: str = ""
    referenced_workflows: tuple[ReferencedWorkflow, ...] | None = ()

    @property
    def is_ours(self) -> bool:
        """Whether it runs hub-tests.yml, itself or by a call."""
        paths = (self.path, *(workflow.path for workflow in self.referenced_workflows or ()))
        return any(WORKFLOW_FILE.search(path) for path in paths)


@dataclass(frozen=True)
class Step:
    """One step of a job."""

    name: str
    conclusion: str | None = None


@dataclass(frozen=True)
class WorkflowJob:
    """One job of one attempt of a run. Times are ISO 8601, UTC."""

    id: int
    name: str
    status: str
    conclusion: str | None = None
    html_url: str | None = None
    created_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    run_attempt: int = 1
    runner_name: str | None = None
    labels: tuple[str, ...] = ()
    steps: tuple[Step, ...] | None = ()

    @property
    def short_name(self) -> str:
        """The name without the calling workflows: `test mixtral` of `hub-tests / run / test mixtral`."""
        return self.name.rsplit(" / ", 1)[-1]

    @property
    def entry(self) -> str | None:
        """The plan's entry that this job tests, None for the other jobs."""
        match = ENTRY_JOB.fullmatch(self.short_name)
        return match["entry"] if match else None

    @property
    def has_started(self) -> bool:
        """Whether a runner has taken it, or it has ended."""
        return bool(self.runner_name) or self.status not in ("queued", "waiting", "pending", "requested")

    @property
    def waits_for_runner(self) -> bool:
        """Whether a runner is all that it lacks.

        "pending" waits for a run of the same concurrency group, "waiting" for an approval.
        """
        return not self.has_started and self.status not in ("pending", "waiting")

    @property
    def failed_before_subject(self) -> str:
        """The step that failed before any code of the subject ran; "" if there is none, or it is not known."""
        conclusions = {step.name: step.conclusion for step in self.steps or ()}
        if self.conclusion == "success" or conclusions.get(SUBJECT_STEP, "unknown") not in (None, "skipped"):
            return ""
        return next((name for name, conclusion in conclusions.items() if conclusion == "failure"), "")

    @property
    def execution(self) -> tuple[str | None, ...] | None:
        """Runner, start, end and conclusion: equal in two listings only if both list the same execution."""
        if not (self.runner_name and self.started_at and self.completed_at):
            return None
        return self.runner_name, self.started_at, self.completed_at, self.conclusion

    def was_running_at(self, time: str) -> bool:
        """Return whether the job was running at `time`, ISO 8601; in doubt it was."""
        if not self.started_at or not time:
            return True
        if parse_time(time) < parse_time(self.started_at):
            return False
        return not self.completed_at or parse_time(time) <= parse_time(self.completed_at)

    @property
    def seconds(self) -> float:
        """How long it ran; 0 if it did not run."""
        if not self.started_at or not self.completed_at:
            return 0.0
        return max((parse_time(self.completed_at) - parse_time(self.started_at)).total_seconds(), 0.0)


def parse_time(text: str) -> datetime:
    """Parse a time of the API, ISO 8601, as UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def get_run(client: Client, run_id: int) -> WorkflowRun | None:
    """Get a run, None if it was deleted."""
    try:
        return client.get(WorkflowRun, f"/actions/runs/{run_id}")
    except NotFoundError:
        return None


def is_active(client: Client, run_id: int) -> bool:
    """Return whether the run exists and has not ended."""
    run = get_run(client, run_id)
    return run is not None and run.status != COMPLETED


def cancel_run(client: Client, run_id: int) -> bool:
    """Ask GitHub to stop a run. Return False if it has ended already."""
    try:
        client.send("POST", f"/actions/runs/{run_id}/cancel")
    except (ConflictError, NotFoundError):
        return False
    return True


def list_jobs(client: Client, run_id: int) -> tuple[WorkflowJob, ...]:
    """List the jobs of every attempt of a run."""
    return tuple(client.paginate(WorkflowJob, f"/actions/runs/{run_id}/jobs", key="jobs", filter="all"))


def find_job(jobs: Iterable[WorkflowJob], name: str) -> WorkflowJob | None:
    """Find the newest job that is called `name`: FETCH_JOB, or PACK_JOB, which hands a private subject over."""
    return max((job for job in jobs if job.short_name == name), key=lambda job: job.run_attempt, default=None)


def select_entry_jobs(jobs: Iterable[WorkflowJob]) -> Mapping[str, Job]:
    """Select the newest job of each entry, in the form that the report takes."""
    by_entry: dict[str, list[WorkflowJob]] = {}
    for job in sorted(jobs, key=lambda job: job.run_attempt):
        if job.entry:
            by_entry.setdefault(job.entry, []).append(job)
    return {entry: _to_report_job(listed[-1], _find_attempt(listed)) for entry, listed in by_entry.items()}


def _find_attempt(listed: list[WorkflowJob]) -> int:
    """Find the attempt in which the newest of an entry's jobs (oldest first) really ran.

    "Re-run failed jobs" lists the jobs that it does not repeat once more, unchanged, with the new attempt's number.
    The artifact of such a job has the old number.
    """
    newest = listed[-1]
    same = (job for job in listed if job is newest or (job.execution and job.execution == newest.execution))
    return next(same).run_attempt


def _to_report_job(job: WorkflowJob, attempt: int) -> Job:
    return Job(
        conclusion=job.conclusion,
        status=job.status,
        url=job.html_url or "",
        attempt=attempt,
        seconds=job.seconds,
        runner=job.runner_name or "",
        note=f"waits for a runner with {', '.join(job.labels)}" if job.waits_for_runner else "",
        broke_early=job.failed_before_subject,
    )
