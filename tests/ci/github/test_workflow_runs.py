"""Workflow runs and their jobs, against the stand-in for GitHub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.github import workflow_runs
from tests.ci.github.samples import job
from tests.e2e.fake_github import NOW

if TYPE_CHECKING:
    from ci.github.client import Client
    from tests.e2e.fake_github import State


def test_the_newest_attempt_of_an_entrys_job_counts(client: Client, state: State) -> None:
    state.jobs[5] = [
        job("hub-tests / run / test mixtral", 1, run_attempt=2),
        job("hub-tests / run / test mixtral", 2, conclusion="failure"),
        job("test qwen2-05b", 3, status="queued", conclusion=None, runner_name=None, completed_at=None),
        job("run / test evil / test mixtral x", 4),
        job("run / report", 5),
    ]
    jobs = workflow_runs.select_entry_jobs(workflow_runs.list_jobs(client, 5))
    assert set(jobs) == {"mixtral", "qwen2-05b"}
    assert (jobs["mixtral"].conclusion, jobs["mixtral"].attempt, jobs["mixtral"].seconds) == ("success", 2, 60.0)
    assert jobs["qwen2-05b"].note == "waits for a runner with self-hosted, gpu"


def test_a_job_that_was_not_run_again_is_of_the_attempt_in_which_it_ran(client: Client, state: State) -> None:
    """ "Re-run failed jobs" lists a job that had succeeded once more, unchanged but for the attempt's number."""
    mixtral, smollm2 = "run / test mixtral", "run / test smollm2"
    later = {"run_attempt": 2, "started_at": "2026-01-02T04:00:00Z", "completed_at": "2026-01-02T04:01:00Z"}
    state.jobs[5] = [
        *(job(mixtral, 1), job(smollm2, 2, conclusion="failure")),
        *(job(mixtral, 3, run_attempt=2), job(smollm2, 4, **later)),
        *(job(mixtral, 5, run_attempt=3), job(smollm2, 6, **later | {"run_attempt": 3})),
    ]
    jobs = workflow_runs.select_entry_jobs(workflow_runs.list_jobs(client, 5))
    assert {name: entry.attempt for name, entry in jobs.items()} == {"mixtral": 1, "smollm2": 2}
    waiting = {"status": "queued", "conclusion": None, "runner_name": None, "started_at": NOW, "completed_at": None}
    state.jobs[5] = [job(mixtral, 1, **waiting), job(mixtral, 2, **waiting, run_attempt=2)]
    assert workflow_runs.select_entry_jobs(workflow_runs.list_jobs(client, 5))["mixtral"].attempt == 2


def test_runs_that_ended_or_are_gone_are_not_active(client: Client, state: State) -> None:
    state.runs |= {1: {"status": "in_progress"}, 2: {"status": "completed"}}
    assert [workflow_runs.is_active(client, number) for number in (1, 2, 3)] == [True, False, False]
    assert [workflow_runs.cancel_run(client, number) for number in (1, 2)] == [True, False]
    assert state.cancelled == [1]
