"""`hub-tests watch`: while tests wait for a machine, say so on the pull request, with labels and since when."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ci.github import answers, pulls, runs
from ci.github.actions import annotation
from ci.github.board import read_state, write_board
from ci.github.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ci.github.context import Context
    from ci.github.runs import RunJob
    from ci.plan import Plan

PATIENCE = 600.0
"""Seconds that a job may wait before it is worth a word."""


def watch(
    plan: Plan,
    context: Context,
    expected: Collection[str],
    *,
    patience: float = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[str, ...]:
    """The `expected` jobs that no machine has taken after `patience` seconds; ends as soon as each is taken.

    Jobs go by their names in the workflow: `fetch`, `test mixtral`.
    """
    deadline = clock() + patience
    with Client(context.api) as client:
        while True:
            found = runs.jobs(client, context.run_id or 0)
            mine = [job for job in found if job.own_name in expected and job.run_attempt == context.run_attempt]
            waiting = [job for job in mine if job.waits_for_a_runner]
            if all(job.has_begun for job in mine) and {job.own_name for job in mine} == set(expected):
                return ()
            if clock() >= deadline:
                break
            sleep(min(context.poll, max(deadline - clock(), 0.0)))
        if waiting:
            _tell(client, plan, context, waiting)
    return tuple(job.own_name for job in waiting)


def _tell(client: Client, plan: Plan, context: Context, waiting: Sequence[RunJob]) -> None:
    request = plan.request
    text = answers.no_runner(waiting)
    labels = ", ".join(dict.fromkeys(label for job in waiting for label in job.labels))
    print(annotation("warning", f"no runner with {labels} has taken {len(waiting)} jobs", title="hub-tests"))
    if request.pull_request is None:
        return
    found = pulls.find_comment(client, request.pull_request, "board", bot=context.bot)
    names = [entry.name for entry in plan.entries]
    body = answers.started(request.sha, names, request.actor, run_url=request.run_url, waiting=text)
    state = read_state(found.body if found else None)
    pulls.keep_comment(client, request.pull_request, found, write_board(body, state))
