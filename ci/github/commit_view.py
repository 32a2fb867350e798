"""All that GitHub knows about a commit's runs: the results of the finished ones, and which are still under way.

The commit's own statuses name every run that was started at it, because each run sets one when it begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ci.errors import HubTestsError
from ci.github import workflow_runs
from ci.github.commit_results import CommitResults, read_commit_results
from ci.github.commit_status import CONTEXT, CommitStatus, RunUnderWay, decide_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.github.client import Client
    from ci.github.commit_results import RunResult
    from ci.github.status_comment import StartedRun

_RUN_URL = re.compile(r"/actions/runs/(\d{1,18})(?:/|$)")


@dataclass(frozen=True)
class CommitView:
    """What is known about a commit; `problems` say what could not be read."""

    results: CommitResults = field(default_factory=CommitResults)
    under_way: tuple[RunUnderWay, ...] = ()
    problems: tuple[str, ...] = ()

    def decide(self, required: Sequence[str], left_out: Sequence[str] = ()) -> CommitStatus:
        """Decide the commit's status."""
        return decide_status(required, self.results.models, self.under_way, "; ".join(self.problems), left_out)


@dataclass(frozen=True)
class _Creator:
    login: str


@dataclass(frozen=True)
class _Status:
    context: str
    target_url: str | None = None
    creator: _Creator | None = None


def read_commit(
    client: Client,
    sha: str,
    *,
    run_id: int | None,
    bot: str,
    own: RunResult | None = None,
    started: Sequence[StartedRun] = (),
) -> CommitView:
    """Read what GitHub knows about the commit `sha` and its runs.

    The run `run_id` itself counts only by its result `own`. `started` are the runs that the pull request's comment
    knows. What cannot be read becomes a problem of the view.
    """
    problems: list[str] = []
    results = CommitResults((own,) if own else ())
    try:
        results = read_commit_results(client, sha, own)
        problems += results.problems
    except HubTestsError as error:
        problems.append(f"other results: {error}")
    under_way: tuple[RunUnderWay, ...] = ()
    try:
        known = {run.run_id: run.models for run in started if run.sha == sha}
        run_ids = sorted({*known, *_list_started(client, sha, bot)} - {run_id, 0})
        active = [number for number in run_ids if _is_under_way(client, number, results)]
        under_way = tuple(RunUnderWay(number, known.get(number, ())) for number in active)
    except HubTestsError as error:
        problems.append(f"other runs: {error}")
    return CommitView(results, under_way, tuple(problems))


def _list_started(client: Client, sha: str, bot: str) -> set[int]:
    """List the runs that have set the commit's status."""
    statuses = client.paginate(_Status, f"/commits/{sha}/statuses")
    ours = (s for s in statuses if s.context == CONTEXT and s.creator is not None and s.creator.login == bot)
    found = (_RUN_URL.search(status.target_url or "") for status in ours)
    return {int(match[1]) for match in found if match}


def _is_under_way(client: Client, run_id: int, results: CommitResults) -> bool:
    """Return whether the run has still to say what it found.

    A run whose results are there may go on for a moment with its last jobs.
    """
    run = workflow_runs.get_run(client, run_id)
    if run is None or run.status == workflow_runs.COMPLETED:
        return False
    return run.run_attempt > results.attempt_of(run_id)
