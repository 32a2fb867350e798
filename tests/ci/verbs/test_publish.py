"""A report to where people look, whatever stands in the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import RequestError
from ci.github.status_comment import CommentState, LastResult, StartedRun, format_status_comment, read_state
from ci.report.report_files import write_report
from ci.verbs.publish import publish_report
from ci.verbs.report import report_digest
from tests.ci.report import samples
from tests.e2e.fake_github import BOT, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from ci.github.context import Context
    from ci.report.results import Results
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import State as GitHub


def written(results: Results, tmp_path: Path, state: GitHub, **request: Any) -> Path:
    """The report of `results` as a run of the stand-in's repository, its pull request at the tested commit."""
    known: dict[str, Any] = {
        "repository": state.repository,
        "subject_repository": state.repository,
        "run_id": 777,
    } | request
    plan = replace(results.plan, request=replace(results.plan.request, **known))
    write_report(replace(results, plan=plan), tmp_path / "report")
    state.pulls[42] = {"state": "open", "sha": samples.SHA, "repository": state.repository}
    return tmp_path / "report"


def test_a_failure_on_a_pull_request(context: Context, state: GitHub, tmp_path: Path) -> None:
    running = CommentState((StartedRun(777, 1, samples.SHA, ("smollm2",)), StartedRun(778, 2, "b" * 40, ("mistral",))))
    state.comments.append({"id": 1, "issue": 42, "user": BOT, "body": format_status_comment("running", running)})
    done = publish_report(written(samples.failing(), tmp_path, state), context)
    assert [(one.what, one.problem) for one in done] == [
        ("summary", ""),
        ("comment", ""),
        ("check", ""),
        ("status", ""),
    ]
    board = state.comment("board")
    assert board.splitlines()[1].startswith("## ❌ Failed: 3 of 3 models")
    remembered = read_state(board)
    assert [run.run_id for run in remembered.runs] == [778]
    assert remembered.last is not None
    assert remembered.last.failed == ("smollm2", "mistral", "mixtral")
    assert state.statuses[0]["state"] == state.checks[0]["conclusion"] == "failure"
    assert context.summary_path is not None
    assert "Failed: 3 of 3 models" in context.summary_path.read_text()


def test_a_run_of_less_does_not_make_a_commit_green_on_which_more_failed(
    context: Context, state: GitHub, tmp_path: Path
) -> None:
    """The status has one name, whatever was tested: a later, smaller run must not hide an earlier failure."""

    def last(sha: str, *failed: str, unsettled: tuple[str, ...] = ()) -> None:
        known = LastResult(5, sha, (*failed, "smollm2"), failed, unsettled=unsettled)
        body = format_status_comment("done", CommentState(last=known))
        state.comments[:] = [{"id": 1, "issue": 42, "user": BOT, "body": body}]

    report = written(samples.judged(samples.plan_of("smollm2")), tmp_path, state)
    last(samples.SHA, "smollm2", "mixtral", unsettled=("mistral",))
    publish_report(report, context)
    board = state.comment("board")
    assert "> **Not tested again: `mixtral`, `mistral`** did not pass at this commit before" in board
    assert "Passed: 1 model" in board
    remembered = read_state(board).last
    assert remembered is not None
    assert (remembered.failed, remembered.unsettled) == ((), ("mixtral", "mistral"))
    assert state.statuses[-1]["state"] == "failure"
    assert "not tested again after it failed: mixtral, mistral" in state.statuses[-1]["description"]
    last("b" * 40, "mixtral")  # at another commit: that is over
    publish_report(report, context)
    assert "Not tested again" not in state.comment("board")
    assert state.statuses[-1]["state"] == "success"
    last(samples.SHA, "smollm2")
    publish_report(report, context)
    assert state.statuses[-1]["state"] == "success"


@pytest.mark.parametrize(
    ("results", "status"),
    [(samples.passing(), "success"), (samples.neutral(), "error"), (samples.crashed(), "failure")],
)
def test_the_status_of_each_verdict(
    results: Results, status: str, context: Context, state: GitHub, tmp_path: Path
) -> None:
    publish_report(written(results, tmp_path, state), context)
    assert [s["state"] for s in state.statuses] == [status]


def test_a_head_that_moved(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = written(samples.passing(), tmp_path, state)
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
    publish_report(written(results, tmp_path, state), context)
    board = state.comment("board")
    assert len(board) <= 65536
    assert "Failed: 256 of 256 models" in board
    last = read_state(board).last
    assert last is not None
    assert len(last.failed) == 256


def test_one_failed_write_does_not_keep_back_the_others(
    context: Context, state: GitHub, github: Contract, tmp_path: Path
) -> None:
    github.fake.faults.append(Fault("POST", ".*/comments", 403, message="Resource not accessible by integration"))
    done = publish_report(written(samples.passing(), tmp_path, state), context)
    assert [bool(one.problem) for one in done] == [False, True, False, False]
    assert "not accessible" in done[1].problem
    assert [s["state"] for s in state.statuses] == ["success"]


def test_another_repositorys_commit_gets_no_status(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = written(samples.passing(), tmp_path, state, subject_repository="a/b", pull_request=None)
    assert [one.what for one in publish_report(report, context)] == ["summary"]
    assert state.statuses == []


def test_a_run_that_broke_before_its_report(context: Context, state: GitHub, tmp_path: Path) -> None:
    waiting = replace(context, inputs=replace(context.inputs, pull_request=42, subject_ref=samples.SHA))
    publish_report(tmp_path / "nothing", waiting)
    assert "No result" in state.comment("board")
    assert [(s["sha"], s["state"]) for s in state.statuses] == [(samples.SHA, "error")]
    with pytest.raises(RequestError, match="no report to publish"):
        publish_report(tmp_path / "nothing", context)


def test_a_forged_report_is_not_published(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = written(samples.failing(), tmp_path, state, trigger="schedule", pull_request=None)
    digest = report_digest(report)
    (report / "report.json").write_bytes((report / "report.json").read_bytes() + b" ")
    with pytest.raises(RequestError, match="its sha256 differs"):
        publish_report(report, context, where="night", sha256=digest)
    assert state.issues == []


def test_a_night_leaves_an_issue_and_history(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = written(samples.failing(), tmp_path, state, trigger="schedule", pull_request=None)
    done = publish_report(report, context, where="night", sha256=report_digest(report))
    assert [one.problem for one in done] == ["", ""]
    assert done[0].done == "opened #100"
    (lines,) = state.files("hub-tests-data").values()
    assert len(lines.splitlines()) == 3


def test_the_comments_are_listed_once(context: Context, state: GitHub, github: Contract, tmp_path: Path) -> None:
    publish_report(written(samples.failing(), tmp_path, state), context)
    listings = [r for r in github.fake.log if r.method == "GET" and r.path.endswith("/comments")]
    assert len(listings) == 1


def test_a_comment_that_cannot_be_read_does_not_keep_back_the_others(
    context: Context, state: GitHub, github: Contract, tmp_path: Path
) -> None:
    github.fake.faults.append(Fault("GET", ".*/comments", 404, times=9))
    done = publish_report(written(samples.passing(), tmp_path, state), context)
    assert [(one.what, bool(one.problem)) for one in done] == [
        ("summary", False),
        ("comment", True),
        ("check", False),
        ("status", False),
    ]
    assert state.comments == []
