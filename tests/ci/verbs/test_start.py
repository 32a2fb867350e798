"""What `start` announces, what it cancels, and what it declines."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.github.gate import GateDecision
from ci.github.status_comment import CommentState, StartedRun, format_status_comment, read_state
from ci.verbs.start import start_run
from tests.ci.github.samples import add_result
from tests.ci.github.test_actions import runner_reads
from tests.e2e import events
from tests.e2e.fake_github import BOT, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from ci.github.context import Context
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import State

HEAD, OLD = "a" * 40, "b" * 40
COMMENT = 3300000011
RUN = GateDecision("run", "alice may", sha=HEAD, models=("mixtral",), pull_request=7, comment_id=COMMENT)


def start(context: Context, tmp_path: Path, **changes: Any) -> GateDecision:
    event = tmp_path / "event.json"
    event.write_text(json.dumps(events.comment("/run-hub-tests mixtral")))
    return start_run(context, event, replace(RUN, **changes))


def remember(state: State, *runs: StartedRun) -> None:
    body = format_status_comment("before", CommentState(runs))
    state.comments[:] = [{"id": 1, "issue": 7, "user": BOT, "body": body}]
    state.runs |= {run.run_id: {"status": "in_progress", "event": "issue_comment"} for run in runs}


def test_a_run_is_announced(context: Context, state: State, tmp_path: Path) -> None:
    assert start(context, tmp_path, layers=3, deep=True).decision == "run"
    (run,) = read_state(state.comment("board")).runs
    assert run == StartedRun(777, COMMENT, HEAD, ("mixtral",), 3, True)
    assert [(s["sha"], s["state"], s["description"]) for s in state.statuses] == [(HEAD, "pending", "running: mixtral")]
    assert context.output_path is not None
    assert dict(runner_reads(context.output_path.read_text())) == {"decision": "run"}
    assert [content for _, _, content in state.reactions] == ["rocket"]


def test_what_other_runs_found_stays(context: Context, state: State, tmp_path: Path) -> None:
    add_result(state, 5, HEAD, mistral="failed", smollm2="passed")
    start(context, tmp_path)
    comment = state.comment("board")
    assert "- ❌ `mistral` failed in [run 5]" in comment
    assert "passed in other runs: `smollm2`" in comment
    assert state.statuses[-1]["description"] == "running: mixtral; failed: mistral"


def test_the_same_comment_starts_one_run_and_a_second_attempt_of_it(
    context: Context, state: State, tmp_path: Path
) -> None:
    """Its rocket tells: GitHub lets nobody react in the same way twice."""
    assert start(context, tmp_path).decision == "run"
    assert start(replace(context, run_id=778), tmp_path).decision == "ignored"
    state.runs[777] = {"status": "in_progress"}  # a later attempt is not its own rival
    assert start(replace(context, run_attempt=2), tmp_path).decision == "run"
    assert len(state.statuses) == 2


def test_without_reactions_the_comment_tells(context: Context, state: State, github: Contract, tmp_path: Path) -> None:
    github.fake.faults.append(Fault("POST", ".*/reactions", 403, times=99))
    assert start(context, tmp_path).decision == "run"
    state.runs[777] = {"status": "completed"}
    assert start(replace(context, run_id=778), tmp_path).decision == "ignored"


def test_what_runs_already_is_not_started_again(context: Context, state: State, tmp_path: Path) -> None:
    """Two gates decide at once; the queue of `start` puts them in an order."""
    remember(state, StartedRun(555, 1, HEAD, ("mixtral",)))
    assert start(context, tmp_path).decision == "answered"
    assert "being tested already: [run 555]" in state.comment("answer")
    assert state.statuses == []
    assert start(replace(context, run_id=778, run_attempt=2), tmp_path, deep=True).decision == "run"
    assert state.cancelled == []


def test_runs_at_older_commits_are_cancelled(context: Context, state: State, tmp_path: Path) -> None:
    remember(state, StartedRun(555, 1, OLD, ("mixtral",)), StartedRun(556, 2, HEAD, ("mistral",)))
    assert start(context, tmp_path).decision == "run"
    assert state.cancelled == [555]
    assert [run.run_id for run in read_state(state.comment("board")).runs] == [556, 777]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", ".*/reactions"),
        ("GET", ".*/issues/7/comments"),
        ("PATCH", ".*/issues/comments/1"),
        ("POST", ".*/statuses/.*"),
        ("GET", ".*/statuses"),
        ("POST", ".*/cancel"),
        ("GET", ".*/actions/artifacts"),
        ("GET", ".*/actions/runs/555"),
    ],
)
@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_call_that_fails_is_said_and_stops_no_run(
    context: Context,
    state: State,
    github: Contract,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    path: str,
    status: int,
) -> None:
    remember(state, StartedRun(555, 1, OLD, ("mixtral",)))
    github.fake.faults.append(Fault(method, path, status, times=999))
    assert start(context, tmp_path).decision == "run"
    told = capsys.readouterr().err + "".join(str(comment["body"]) for comment in state.comments)
    excused = status == 404 and path.endswith(("cancel", "555", "comments/1"))  # gone: as good as done, or written anew
    assert excused or "The run goes on without it" in told or "cannot be read" in told
