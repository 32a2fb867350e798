"""`hub-tests watch`: while jobs wait for a runner, say so on the pull request, with labels and since when."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ci.github import messages, pulls, workflow_runs
from ci.github.actions import print_annotation
from ci.github.client import Client
from ci.github.commit_view import read_commit
from ci.github.cosmetic import try_cosmetic
from ci.github.status_comment import format_status_comment, read_state

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ci.github.context import Context
    from ci.github.workflow_runs import WorkflowJob
    from ci.plan import Plan

MAX_WAIT = 600.0
"""Seconds that a job may wait before people are told."""
MAX_LOOKS = 3
"""How often the comment is read anew because somebody wrote it meanwhile."""


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
    request, labels = plan.request, ", ".join(dict.fromkeys(label for job in waiting for label in job.labels))
    print_annotation("warning", f"no runner with {labels} has taken {len(waiting)} jobs", title="hub-tests")
    if request.pull_request is not None:
        try_cosmetic("the comment", lambda: _write_comment(client, plan, context, waiting), None)


def _write_comment(client: Client, plan: Plan, context: Context, waiting: Sequence[WorkflowJob]) -> None:
    """Write what is waited for into the status comment, unless a report or a later run wrote there.

    This job is not in their queue: it would hold them up for as long as it watches.
    """
    request, bot, run_id = plan.request, context.bot_login, context.run_id or 0
    number = request.pull_request or 0
    for _ in range(MAX_LOOKS):
        seen = pulls.find_comment(client, number, "status", bot=bot)
        state = read_state(seen.body if seen else None)
        if state.is_beyond(run_id):
            return
        view = read_commit(client, request.sha, run_id=context.run_id, bot=bot, started=state.runs)
        text = messages.format_running(
            request.sha,
            [entry.name for entry in plan.entries],
            request.actor,
            run_url=request.run_url,
            waiting=messages.say_no_runner(waiting),
            others=messages.format_others(view.decide(()), context.run_id),
        )
        if pulls.write_unchanged(client, number, seen, format_status_comment(text, state), bot=bot):
            return
