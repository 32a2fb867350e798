from __future__ import annotations

from typing import TYPE_CHECKING

from ci.github.status_comment import CommentState, StartedRun, format_status_comment, read_state
from ci.verbs.publish import publish_report
from tests.ci.report import samples
from tests.ci.verbs.reports import write_run_report
from tests.e2e.fake_github import BOT

if TYPE_CHECKING:
    from pathlib import Path

    from ci.github.context import Context
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import State as GitHub


def test_an_old_run_leaves_the_comment_to_the_run_at_the_head(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = write_run_report(samples.failing(), tmp_path, state)
    state.pulls[42]["sha"] = "d" * 40
    running = CommentState((StartedRun(777, 1, samples.SHA, ("smollm2",)), StartedRun(778, 2, "d" * 40, ("mistral",))))
    state.comments.append({"id": 1, "issue": 42, "user": BOT, "body": format_status_comment("at the head", running)})
    publish_report(report, context)
    assert state.comment("board").splitlines()[1] == "at the head"
    assert [run.run_id for run in read_state(state.comment("board")).runs] == [778]
    assert (state.statuses[-1]["sha"], state.statuses[-1]["state"]) == (samples.SHA, "failure")


def test_a_fork_is_repeated_at_the_commit_that_was_reviewed(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = write_run_report(samples.failing(), tmp_path, state)
    state.pulls[42]["repository"] = "mallory/framework"
    publish_report(report, context)
    assert f"write `/run-hub-tests --sha {samples.SHA} --failed`" in state.comment("board")


def test_a_head_that_moved(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = write_run_report(samples.passing(), tmp_path, state)
    state.pulls[42]["sha"] = "d" * 40
    publish_report(report, context)
    first = state.comment("board").splitlines()[1]
    assert first == (
        "> **stale: head is now [dddddddddddd](https://github.com/octo-org/framework/commit/" + "d" * 40 + ")**, "
        f"this is about `{samples.SHA[:12]}`"
    )
    assert state.statuses[0]["sha"] == samples.SHA


def test_the_largest_report_still_fits_with_its_state(context: Context, state: GitHub, tmp_path: Path) -> None:
    results = samples.huge()
    publish_report(write_run_report(results, tmp_path, state), context)
    comment = state.comment("board")
    assert len(comment) <= 65536
    assert "Failed: 256 of 256 models" in comment
    last = read_state(comment).last
    assert last is not None
    assert len(last.failed) == 256


def test_the_comments_are_listed_once(context: Context, state: GitHub, github: Contract, tmp_path: Path) -> None:
    publish_report(write_run_report(samples.failing(), tmp_path, state), context)
    listings = [r for r in github.fake.log if r.method == "GET" and r.path.endswith("/comments")]
    assert len(listings) == 1
