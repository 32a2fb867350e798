from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.github.status_comment import CommentState, StartedRun, format_status_comment, read_state
from ci.verbs.publish import publish_report
from tests.ci.github.samples import add_result
from tests.ci.report import samples
from tests.ci.verbs.reports import write_run_report
from tests.e2e.fake_github import BOT, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from ci.github.context import Context
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import Request
    from tests.e2e.fake_github import State as GitHub


def test_a_run_of_less_does_not_make_a_commit_green_on_which_more_failed(
    context: Context, state: GitHub, tmp_path: Path
) -> None:
    """The status has one name, whatever was tested: a later, smaller run must not hide an earlier failure."""
    report = write_run_report(samples.make_results(samples.plan_of("smollm2")), tmp_path, state)
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
    publish_report(write_run_report(samples.make_results(samples.plan_of("smollm2")), tmp_path, state), context)
    assert "mixtral" not in state.comment("board")
    assert (state.statuses[-1]["state"], state.statuses[-1]["description"]) == ("success", "1 model passed: smollm2")


def test_required_models_without_a_result_keep_the_commit_pending(
    context: Context, state: GitHub, tmp_path: Path
) -> None:
    made = samples.make_results(samples.plan_of("smollm2"))
    made = replace(made, plan=replace(made.plan, required=("smollm2", "mixtral", "mistral")))
    publish_report(write_run_report(made, tmp_path, state), context)
    assert (state.statuses[-1]["state"], state.statuses[-1]["description"]) == (
        "pending",
        "no result yet: mixtral, mistral",
    )
    assert "- ❓ required, no result yet: `mixtral`, `mistral`" in state.comment("board")


def test_another_run_that_is_under_way_keeps_the_commit_pending(
    context: Context, state: GitHub, tmp_path: Path
) -> None:
    """Known by the comment, or only by the status that it set on the commit."""
    report = write_run_report(samples.make_results(samples.plan_of("smollm2")), tmp_path, state)
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
    report = write_run_report(samples.passing(), tmp_path, state)

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
    report = write_run_report(samples.passing(), tmp_path, state)
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
    done = publish_report(write_run_report(samples.passing(), tmp_path, state), context)
    assert [one.problem for one in done] == ["", "", ""]
    assert state.statuses[-1]["state"] in ("error", "failure")
    assert "cannot be read" in state.comment("board")


def test_another_repositorys_commit_gets_no_status(context: Context, state: GitHub, tmp_path: Path) -> None:
    report = write_run_report(samples.passing(), tmp_path, state, subject_repository="a/b", pull_request=None)
    assert [one.what for one in publish_report(report, context)] == ["summary"]
    assert state.statuses == []
