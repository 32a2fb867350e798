"""Workflow runs and their jobs: what GitHub itself says of an entry, which no test can forge."""

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
FETCH_JOB = "fetch"
INSTALL_STEP = "Install the subject into an environment of its own"
"""The first step of a test job that runs anything of the subject's; what comes before it is the service's own."""

FINISHED = "completed"


@dataclass(frozen=True)
class Run:
    """One run of a workflow. `status` is "completed" at its end."""

    id: int
    status: str
    html_url: str
    head_sha: str = ""
    run_attempt: int = 1


@dataclass(frozen=True)
class Step:
    """One step of a job."""

    name: str
    conclusion: str | None = None


@dataclass(frozen=True)
class RunJob:
    """One job of a run's attempt. Times are ISO 8601, UTC."""

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
    def own_name(self) -> str:
        """Its name in its own workflow: `test mixtral` of `hub-tests / run / test mixtral`."""
        return self.name.rsplit(" / ", 1)[-1]

    @property
    def entry(self) -> str | None:
        """The plan's entry that this job tests, None for the other jobs."""
        match = ENTRY_JOB.fullmatch(self.own_name)
        return match["entry"] if match else None

    @property
    def has_begun(self) -> bool:
        """Whether a machine has taken it, or it is over."""
        return bool(self.runner_name) or self.status not in ("queued", "waiting", "pending", "requested")

    @property
    def waits_for_a_runner(self) -> bool:
        """Whether it is a machine that it lacks: "pending" is behind a run of the same group, "waiting" for leave."""
        return not self.has_begun and self.status not in ("pending", "waiting")

    @property
    def broke_early(self) -> str:
        """The step in which it broke before anything of the subject was run; "" where it did not, or who knows."""
        known = {step.name: step.conclusion for step in self.steps or ()}
        if self.conclusion == "success" or known.get(INSTALL_STEP, "unknown") not in (None, "skipped"):
            return ""
        return next((name for name, conclusion in known.items() if conclusion == "failure"), "")

    @property
    def execution(self) -> tuple[str | None, ...] | None:
        """Machine, begin, end and conclusion: the same in two listings only where they list the same execution."""
        if not (self.runner_name and self.started_at and self.completed_at):
            return None
        return self.runner_name, self.started_at, self.completed_at, self.conclusion

    @property
    def seconds(self) -> float:
        """How long it ran; 0 where it has not."""
        if not self.started_at or not self.completed_at:
            return 0.0
        return max((moment(self.completed_at) - moment(self.started_at)).total_seconds(), 0.0)


def moment(text: str) -> datetime:
    """An API time."""
    return datetime.fromisoformat(text).astimezone(UTC)


def run(client: Client, run_id: int) -> Run | None:
    """The run, None where it was deleted."""
    try:
        return client.get(Run, f"/actions/runs/{run_id}")
    except NotFoundError:
        return None


def is_active(client: Client, run_id: int) -> bool:
    """Whether the run has not come to its end."""
    found = run(client, run_id)
    return found is not None and found.status != FINISHED


def jobs(client: Client, run_id: int) -> tuple[RunJob, ...]:
    """Every job of every attempt of a run."""
    return tuple(client.pages(RunJob, f"/actions/runs/{run_id}/jobs", key="jobs", filter="all"))


def entry_jobs(found: Iterable[RunJob]) -> Mapping[str, Job]:
    """Each entry's newest job, as the report takes it."""
    by_entry: dict[str, list[RunJob]] = {}
    for job in sorted(found, key=lambda job: job.run_attempt):
        if job.entry:
            by_entry.setdefault(job.entry, []).append(job)
    return {entry: _job(listed[-1], _ran_in(listed)) for entry, listed in by_entry.items()}


def _ran_in(listed: list[RunJob]) -> int:
    """The attempt in which the newest of an entry's jobs, oldest first, really ran.

    "Re-run failed jobs" lists those that it does not run again a second time, as they were, with the new attempt's
    number; what such a job left carries the old one.
    """
    newest = listed[-1]
    same = (job for job in listed if job is newest or (job.execution and job.execution == newest.execution))
    return next(same).run_attempt


def fetch_job(found: Iterable[RunJob]) -> RunJob | None:
    """The newest job that fetches the checkpoints."""
    return max((job for job in found if job.own_name == FETCH_JOB), key=lambda job: job.run_attempt, default=None)


def cancel(client: Client, run_id: int) -> bool:
    """Ask a run to stop; False where it has ended by itself."""
    try:
        client.send("POST", f"/actions/runs/{run_id}/cancel")
    except (ConflictError, NotFoundError):
        return False
    return True


def _job(job: RunJob, attempt: int) -> Job:
    return Job(
        conclusion=job.conclusion,
        status=job.status,
        url=job.html_url or "",
        attempt=attempt,
        seconds=job.seconds,
        runner=job.runner_name or "",
        note=f"waits for a runner with {', '.join(job.labels)}" if job.waits_for_a_runner else "",
        broke_early=job.broke_early,
    )
