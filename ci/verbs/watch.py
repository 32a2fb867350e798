"""`hub-tests watch`: while jobs wait for a runner, say so on the pull request, with labels and since when."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ci.github import messages, pulls, workflow_runs
from ci.github.actions import print_annotation
from ci.github.client import Client
from ci.github.commit_view import read_commit
from ci.github.cosmetic import try_cosmetic
from ci.github.status_comment import CommentState, read_state

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ci.github.context import Context
    from ci.github.workflow_runs import WorkflowJob
    from ci.plan import Plan, RunRequest

MAX_WAIT = 600.0
"""Seconds that a job may wait before people are told."""


def watch_jobs(
    plan: Plan,
    context: Context,
    expected: Collection[str],
    *,
    patience: float = MAX_WAIT,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[str, ...]:
    """Return the `expected` jobs that no runner has taken after `patience` seconds.

    Ends early once each job is taken. Jobs have their names in the workflow: `fetch`, `test mixtral`.
    """
    deadline = clock() + patience
    with Client(context.api) as client:
        while True:
            watched = _list_watched_jobs(client, context, expected)
            waiting = [job for job in watched if job.waits_for_runner]
            if all(job.has_started for job in watched) and {job.short_name for job in watched} == set(expected):
                return ()
            if clock() >= deadline:
                break
            sleep(min(context.poll_interval, max(deadline - clock(), 0.0)))
        if waiting:
            _report_waiting(client, plan, context, waiting)
    return tuple(job.short_name for job in waiting)


def _list_watched_jobs(client: Client, context: Context, expected: Collection[str]) -> list[WorkflowJob]:
    jobs = workflow_runs.list_jobs(client, context.run_id or 0)
    return [job for job in jobs if job.short_name in expected and job.run_attempt == context.run_attempt]


def _report_waiting(client: Client, plan: Plan, context: Context, waiting: Sequence[WorkflowJob]) -> None:
    request = plan.request
    labels = ", ".join(dict.fromkeys(label for job in waiting for label in job.labels))
    print_annotation("warning", f"no runner with {labels} has taken {len(waiting)} jobs", title="hub-tests")
    if request.pull_request is None:
        return
    state = try_cosmetic("the comment", lambda: _read_state(client, request, context), CommentState())
    view = read_commit(client, request.sha, run_id=context.run_id, bot=context.bot_login, started=state.runs)
    text = messages.format_running(
        request.sha,
        [entry.name for entry in plan.entries],
        request.actor,
        run_url=request.run_url,
        waiting=messages.say_no_runner(waiting),
        others=messages.format_others(view.decide(()), context.run_id),
    )
    number = request.pull_request
    try_cosmetic("the comment", lambda: pulls.replace_status_text(client, number, text, bot=context.bot_login), None)


def _read_state(client: Client, request: RunRequest, context: Context) -> CommentState:
    comment = pulls.find_comment(client, request.pull_request or 0, "status", bot=context.bot_login)
    return read_state(comment.body if comment else None)
