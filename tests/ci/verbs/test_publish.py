"""A report to where people look, whatever stands in the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import RequestError
from ci.github.status_comment import CommentState, StartedRun, format_status_comment, read_state
from ci.report.report_files import write_report
from ci.verbs.publish import publish_report
from ci.verbs.report import report_digest
from tests.ci.github.samples import add_result
from tests.ci.report import samples
from tests.e2e.fake_github import BOT, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from ci.github.context import Context
    from ci.report.results import Results
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import Request
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


def test_a_run_of_less_does_not_make_a_commit_green_on_which_more_failed(
    context: Context, state: GitHub, tmp_path: Path
) -> None:
    """The status has one name, whatever was tested: a later, smaller run must not hide an earlier failure."""
    report = written(samples.make_results(samples.plan_of("smollm2")), tmp_path, state)
    add_result(state, 5, samples.SHA, smollm2="failed", mixtral="failed", mistral="neutral")
    publish_report(report, context)
    comment = state.comment("board")
    assert comment.splitlines()[1].startswith("**This commit: failure**")
    assert (
        "- ❌ `mixtral` failed in [run 5](https://github.com/octo-org/framework/actions/runs/5): it is wrong" in comment
    )
    assert "- ⚠️ `mistral` no answer in [run 5]" in comment
    assert "`smollm2` failed" not in comment
    assert "Passed: 1 model" in comment
    remembered = read_state(comment).last
    assert remembered is not None
    assert (remembered.failed, remembered.unsettled) == ((), ("mixtral", "mistral"))
    assert (state.statuses[-1]["state"], state.statuses[-1]["description"]) == (
        "failure",
        "failed: mixtral; no answer: mistral",
    )


def test_what_failed_at_another_commit_is_over(context: Context, state: GitHub, tmp_path: Path) -> None:
    add_result(state, 5, "b" * 40, mixtral="failed")
    publish_report(written(samples.make_results(samples.plan_of("smollm2")), tmp_path, state), context)
    assert "mixtral" not in state.comment("board")
    assert (state.statuses[-1]["state"], state.statuses[-1]["description"]) == ("success", "1 model passed: smollm2")


def test_required_models_without_a_result_keep_the_commit_pending(
    context: Context, state: GitHub, tmp_path: Path
) -> None:
    made = samples.make_results(samples.plan_of("smollm2"))
    made = replace(made, plan=replace(made.plan, required=("smollm2", "mixtral", "mistral")))
    publish_report(written(made, tmp_path, state), context)
    assert (state.statuses[-1]["state"], state.statuses[-1]["description"]) == (
        "pending",
        "no result yet: mixtral, mistral",
    )
    assert "- ❓ required, no result yet: `mixtral`, `mistral`" in state.comment("board")


def test_another_run_that_is_under_way_keeps_the_commit_pending(
    context: Context, state: GitHub, tmp_path: Path
) -> None:
    """Known by the comment, or only by the status that it set on the commit."""
    report = written(samples.make_results(samples.plan_of("smollm2")), tmp_path, state)
    running = CommentState((StartedRun(778, 2, samples.SHA, ("mistral",)),))
    state.comments.append({"id": 1, "issue": 42, "user": BOT, "body": format_status_comment("running", running)})
    url = f"https://github.com/{state.repository}/actions/runs/779"
    state.statuses.append({"sha": samples.SHA, "state": "pending", "context": "hub-tests", "target_url": url})
    state.runs |= {778: {"status": "in_progress"}, 779: {"status": "queued"}}
    publish_report(report, context)
    assert (state.statuses[-1]["state"], state.statuses[-1]["description"]) == ("pending", "running: mistral, run 779")
    assert "- ⏳ run 778 is still testing `mistral`" in state.comment("board")
    assert [run.run_id for run in read_state(state.comment("board")).runs] == [778]


def test_a_run_that_ends_while_the_status_is_set_is_seen(context: Context, state: GitHub, tmp_path: Path) -> None:
    """Another queue's report uploads its results after this one has read them."""
    report = written(samples.passing(), tmp_path, state)

    def end_another(request: Request) -> None:
        if request.path.endswith(f"/statuses/{samples.SHA}") and request.is_write and not state.artifacts:
            add_result(state, 5, samples.SHA, other="failed")

    state.before = end_another
    publish_report(report, context)
    assert [s["state"] for s in state.statuses] == ["success", "failure"]


def test_a_run_whose_last_jobs_still_run_has_reported(context: Context, state: GitHub, tmp_path: Path) -> None:
    add_result(state, 5, samples.SHA, mixtral="passed")
    state.runs[5]["status"] = "in_progress"
    url = f"https://github.com/{state.repository}/actions/runs/5"
    state.statuses.append({"sha": samples.SHA, "state": "pending", "context": "hub-tests", "target_url": url})
    report = written(samples.passing(), tmp_path, state)
    publish_report(report, context)
    assert state.statuses[-1]["state"] == "success"
    state.runs[5]["run_attempt"] = 2  # its failed jobs run again
    publish_report(report, context)
    assert state.statuses[-1]["state"] == "pending"


@pytest.mark.parametrize("path", [".*/actions/artifacts", ".*/actions/artifacts/1/zip", ".*/statuses", ".*/runs/5.*"])
@pytest.mark.parametrize("status", [403, 500])
def test_what_cannot_be_read_is_never_green(
    context: Context, state: GitHub, github: Contract, tmp_path: Path, path: str, status: int
) -> None:
    add_result(state, 5, samples.SHA, mixtral="failed")
    github.fake.faults.append(Fault("GET", path, status, times=999))
    done = publish_report(written(samples.passing(), tmp_path, state), context)
    assert [one.problem for one in done] == ["", "", ""]
    assert state.statuses[-1]["state"] in ("error", "failure")
    assert "cannot be read" in state.comment("board")


def test_a_status_that_github_refuses_is_said_in_the_comment(
    context: Context, state: GitHub, github: Contract, tmp_path: Path
) -> None:
    github.fake.faults.append(Fault("POST", ".*/statuses/.*", 403, message="Resource not accessible by integration"))
    done = publish_report(written(samples.passing(), tmp_path, state), context)
    assert [bool(one.problem) for one in done] == [False, True, False]
    assert "The commit's status could not be set:" in state.comment("board")


def test_an_old_run_leaves_the_comment_to_the_run_at_the_head(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = written(samples.failing(), tmp_path, state)
    state.pulls[42]["sha"] = "d" * 40
    running = CommentState((StartedRun(777, 1, samples.SHA, ("smollm2",)), StartedRun(778, 2, "d" * 40, ("mistral",))))
    state.comments.append({"id": 1, "issue": 42, "user": BOT, "body": format_status_comment("at the head", running)})
    publish_report(report, context)
    assert state.comment("board").splitlines()[1] == "at the head"
    assert [run.run_id for run in read_state(state.comment("board")).runs] == [778]
    assert (state.statuses[-1]["sha"], state.statuses[-1]["state"]) == (samples.SHA, "failure")


def test_a_fork_is_repeated_at_the_commit_that_was_reviewed(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = written(samples.failing(), tmp_path, state)
    state.pulls[42]["repository"] = "mallory/framework"
    publish_report(report, context)
    assert f"write `/run-hub-tests --sha {samples.SHA} --failed`" in state.comment("board")


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
    comment = state.comment("board")
    assert len(comment) <= 65536
    assert "Failed: 256 of 256 models" in comment
    last = read_state(comment).last
    assert last is not None
    assert len(last.failed) == 256


def test_one_failed_write_does_not_keep_back_the_others(
    context: Context, state: GitHub, github: Contract, tmp_path: Path
) -> None:
    github.fake.faults.append(Fault("POST", ".*/comments", 403, message="Resource not accessible by integration"))
    done = publish_report(written(samples.passing(), tmp_path, state), context)
    assert [bool(one.problem) for one in done] == [False, False, True]
    assert "not accessible" in done[2].problem
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
    by_hand = replace(context, event_name="workflow_dispatch", inputs=waiting.inputs)
    for nothing in (context, by_hand):
        with pytest.raises(RequestError, match="no report to publish"):
            publish_report(tmp_path / "nothing", nothing)
    assert len(state.statuses) == 1
    publish_report(tmp_path / "nothing", replace(context, planned_sha="e" * 40))  # no pull request, but a commit
    assert (state.statuses[-1]["sha"], state.statuses[-1]["state"]) == ("e" * 40, "error")


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
    files = state.files("hub-tests-data")
    (lines,) = (text for path, text in files.items() if path.startswith("history/"))
    assert len(lines.splitlines()) == 3
    assert set(files) - {path for path in files if path.startswith("history/")} == PAGES
    assert "3 of 3 models fail" in files["index.html"]
    assert "the rotary embedding is wrong" in files["index.html"], "tonight is in the dashboard of tonight"
    (issue,) = state.issues
    assert "[dashboard](https://" in issue["body"]
    again = publish_report(report, context, where="night")
    assert [one.problem for one in again] == ["", ""]
    assert "1 night" in state.files("hub-tests-data")["index.html"], "a second attempt is the same night"


PAGES = {"index.html", "matrix.html", ".nojekyll"}


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
        ("status", False),
        ("comment", True),
    ]
    assert state.comments == []


def test_results_with_the_newest_versions_reach_the_issue_and_nothing_else(
    context: Context, state: GitHub, tmp_path: Path
) -> None:
    report = written(samples.passing(), tmp_path, state, trigger="schedule", pull_request=None)
    plan = samples.plan_of(trigger="schedule", pull_request=None)
    for entry in plan.entries:
        folder = tmp_path / f"upstream/upstream-of-hub-tests-{entry.name}.1"
        folder.mkdir(parents=True)
        fault = {f"test_forward_equivalence[{entry.name}]": samples.mismatch()} if entry.name == "mistral" else {}
        (folder / "junit.xml").write_bytes(samples.junit(samples.plan_of(entry.name), fault))
    done = publish_report(report, context, where="night", upstream=tmp_path / "upstream")
    assert [one.problem for one in done] == ["", ""]
    assert done[0].done == "opened #100"
    assert "1 of 3 fail: `mistral`" in state.issues[0]["body"]
    (lines,) = (text for path, text in state.files("hub-tests-data").items() if path.startswith("history/"))
    assert '"failed"' not in lines  # the history is of the environment that counts
    assert state.statuses == state.comments == []


def test_newest_versions_without_any_result_open_no_issue(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = written(samples.passing(), tmp_path, state, trigger="schedule", pull_request=None)
    done = publish_report(report, context, where="night", upstream=tmp_path / "nothing")
    assert (done[0].problem, done[0].done) == ("", "nothing to do")
    assert state.issues == []
