"""A report to where people look, whatever stands in the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import RequestError
from ci.github.status_comment import CommentState, StartedRun, format_status_comment, read_state
from ci.verbs.publish import publish_report
from ci.verbs.report import report_digest
from tests.ci.report import samples
from tests.ci.verbs.reports import write_run_report
from tests.e2e.fake_github import BOT, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from ci.github.context import Context
    from ci.report.results import Results
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import State as GitHub


def test_a_failure_on_a_pull_request(context: Context, state: GitHub, tmp_path: Path) -> None:
    running = CommentState((StartedRun(777, 1, samples.SHA, ("smollm2",)), StartedRun(778, 2, "b" * 40, ("mistral",))))
    state.comments.append({"id": 1, "issue": 42, "user": BOT, "body": format_status_comment("running", running)})
    done = publish_report(write_run_report(samples.failing(), tmp_path, state), context)
    assert [(one.what, one.problem) for one in done] == [
        ("summary", ""),
        ("status", ""),
        ("comment", ""),
    ]
    comment = state.comment("board")
    assert comment.splitlines()[1].startswith("## ❌ Failed: 3 of 3 models")
    remembered = read_state(comment)
    assert [run.run_id for run in remembered.runs] == [778]
    assert remembered.last is not None
    assert remembered.last.failed == ("smollm2", "mistral", "mixtral")
    assert state.statuses[0]["state"] == "failure"
    assert "write `/run-hub-tests --failed`" in comment
    assert context.summary_path is not None
    assert "Failed: 3 of 3 models" in context.summary_path.read_text()


def test_a_status_that_github_refuses_is_said_in_the_comment(
    context: Context, state: GitHub, github: Contract, tmp_path: Path
) -> None:
    github.fake.faults.append(Fault("POST", ".*/statuses/.*", 403, message="Resource not accessible by integration"))
    done = publish_report(write_run_report(samples.passing(), tmp_path, state), context)
    assert [bool(one.problem) for one in done] == [False, True, False]
    assert "The commit's status could not be set:" in state.comment("board")


@pytest.mark.parametrize(
    ("results", "status"),
    [(samples.passing(), "success"), (samples.neutral(), "error"), (samples.crashed(), "failure")],
)
def test_the_status_of_each_verdict(
    results: Results, status: str, context: Context, state: GitHub, tmp_path: Path
) -> None:
    publish_report(write_run_report(results, tmp_path, state), context)
    assert [s["state"] for s in state.statuses] == [status]


def test_one_failed_write_does_not_keep_back_the_others(
    context: Context, state: GitHub, github: Contract, tmp_path: Path
) -> None:
    github.fake.faults.append(Fault("POST", ".*/comments", 403, message="Resource not accessible by integration"))
    done = publish_report(write_run_report(samples.passing(), tmp_path, state), context)
    assert [bool(one.problem) for one in done] == [False, False, True]
    assert "not accessible" in done[2].problem
    assert [s["state"] for s in state.statuses] == ["success"]


def test_a_run_that_broke_before_its_report(context: Context, state: GitHub, tmp_path: Path) -> None:
    waiting = replace(context, inputs=replace(context.inputs, pull_request=42, subject_ref=samples.SHA))
    publish_report(tmp_path / "nothing", waiting)
    assert "No result" in state.comment("board")
    assert [(s["sha"], s["state"]) for s in state.statuses] == [(samples.SHA, "error")]
    by_hand = replace(context, event_name="workflow_dispatch", inputs=waiting.inputs)
    for nothing in (context, by_hand):
        with pytest.raises(RequestError, match="no report to publish"):
            publish_report(tmp_path / "nothing", nothing)
    assert len(state.statuses) == 1
    publish_report(tmp_path / "nothing", replace(context, planned_sha="e" * 40))  # no pull request, but a commit
    assert (state.statuses[-1]["sha"], state.statuses[-1]["state"]) == ("e" * 40, "error")


def test_a_forged_report_is_not_published(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = write_run_report(samples.failing(), tmp_path, state, trigger="schedule", pull_request=None)
    digest = report_digest(report)
    (report / "report.json").write_bytes((report / "report.json").read_bytes() + b" ")
    with pytest.raises(RequestError, match="its sha256 differs"):
        publish_report(report, context, where="night", sha256=digest)
    assert state.issues == []


def test_a_comment_that_cannot_be_read_does_not_keep_back_the_others(
    context: Context, state: GitHub, github: Contract, tmp_path: Path
) -> None:
    github.fake.faults.append(Fault("GET", ".*/comments", 404, times=9))
    done = publish_report(write_run_report(samples.passing(), tmp_path, state), context)
    assert [(one.what, bool(one.problem)) for one in done] == [
        ("summary", False),
        ("status", False),
        ("comment", True),
    ]
    assert state.comments == []
