"""`watch`: a job that waits for a runner is told on the pull request."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.github import commit_view
from ci.github.status_comment import CommentState, LastResult, StartedRun, format_status_comment, read_state
from ci.verbs import watch
from ci.verbs.watch import watch_jobs
from tests.ci.github.samples import job
from tests.ci.report import samples
from tests.e2e.fake_github import BOT

if TYPE_CHECKING:
    from ci.github.context import Context
    from ci.plan import Plan
    from tests.e2e.fake_github import State


def asked(state: State) -> Plan:
    """A plan of two models for pull request 42, whose comment says that it runs."""
    state.comments.append({"id": 1, "issue": 42, "user": BOT, "body": format_status_comment("running", CommentState())})
    return samples.plan_of("smollm2", "mistral")


WAITING = {"status": "queued", "conclusion": None, "runner_name": None, "completed_at": None}


def test_a_missing_runner_is_said_on_the_pull_request(context: Context, state: State) -> None:
    made = asked(state)
    state.jobs[777] = [
        job("run / test smollm2", 1),
        job("run / test mistral", 2, **WAITING, created_at="2026-01-02T03:00:00Z"),
    ]
    assert watch_jobs(made, context, ("test smollm2", "test mistral"), patience=0.05) == ("test mistral",)
    comment = state.comment("board")
    assert "No runner with the labels `self-hosted`, `gpu` has taken `test mistral` since" in comment
    assert "2026-01-02 03:00" in comment.replace("`", "")


def test_a_job_of_an_earlier_attempt_is_not_the_one_to_watch(context: Context, state: State) -> None:
    made = asked(state)
    state.jobs[777] = [
        job("test smollm2", 1),
        job("test smollm2", 2, **WAITING | {"run_attempt": 2}),
    ]
    assert watch_jobs(made, replace(context, run_attempt=2), ("test smollm2",), patience=0.0) == ("test smollm2",)
    state.jobs[777] = state.jobs[777][:1]
    polls: list[float] = []
    clock, second = iter((0.0, 0.0, 0.0, 9.0)).__next__, replace(context, run_attempt=2)
    assert watch_jobs(made, second, ("test smollm2",), patience=1.0, sleep=polls.append, clock=clock) == ()
    assert len(polls) == 1


def test_without_a_pull_request_a_missing_runner_is_an_annotation(
    context: Context, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    made = samples.plan_of("smollm2", trigger="schedule", pull_request=None)
    state.jobs[777] = [job("test smollm2", 1, **WAITING)]
    assert watch_jobs(made, context, ("test smollm2",), patience=0.0) == ("test smollm2",)
    assert capsys.readouterr().err.startswith("::warning title=hub-tests::no runner with self-hosted, gpu has taken")
    assert state.comments == []


def test_a_job_behind_another_run_lacks_no_runner(context: Context, state: State) -> None:
    """GitHub calls it pending while a job of the same concurrency group is under way."""
    made = asked(state)
    state.jobs[777] = [job("run / test smollm2", 1, **WAITING | {"status": "pending"})]
    polls: list[float] = []
    clock = iter((0.0, 0.0, 0.0, 9.0)).__next__
    assert watch_jobs(made, context, ("test smollm2",), patience=1.0, sleep=polls.append, clock=clock) == ()
    assert len(polls) == 1
    assert "No runner" not in state.comment("board")


def test_a_missing_fetch_runner_is_said_too(context: Context, state: State) -> None:
    made = asked(state)
    labels = {"labels": ["self-hosted", "hub-tests-store"]}
    state.jobs[777] = [job("run / fetch", 1, **WAITING | labels, created_at="2026-01-02T03:00:00Z")]
    assert watch_jobs(made, context, ("fetch",), patience=0.05) == ("fetch",)
    assert "No runner with the labels `self-hosted`, `hub-tests-store` has taken `fetch` since" in state.comment(
        "board"
    )


def test_watching_ends_with_the_last_job_on_a_machine(context: Context, state: State) -> None:
    made = asked(state)
    state.jobs[777] = [job("run / test smollm2", 1)]
    polls: list[float] = []

    def later(seconds: float) -> None:
        polls.append(seconds)
        state.jobs[777].append(job("run / test mistral", 2, status="in_progress", conclusion=None, completed_at=None))

    assert watch_jobs(made, context, ("test smollm2", "test mistral"), sleep=later) == ()
    assert len(polls) == 1
    assert "running" in state.comment("board")


RUN = StartedRun(777, 1, samples.SHA, ("smollm2",))
LATER = StartedRun(778, 2, "b" * 40, ("mistral",))
STATES = {
    "its own report": (CommentState((), LastResult(777, samples.SHA, ("smollm2",), ())), False),
    "a later run": (CommentState((RUN, LATER)), False),
    "a later run's report": (CommentState((RUN,), LastResult(778, samples.SHA, ("mistral",), ())), False),
    "an earlier run's report": (CommentState((RUN,), LastResult(776, samples.SHA, ("mistral",), ())), True),
    "its own report before it was started again": (
        CommentState((RUN,), LastResult(777, samples.SHA, ("smollm2",), ())),
        True,
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_a_report_and_a_later_run_keep_their_comment(name: str, context: Context, state: State) -> None:
    written, says = STATES[name]
    made = asked(state)
    state.comments[0]["body"] = format_status_comment("## what stands there", written)
    state.jobs[777] = [job("run / test smollm2", 1, **WAITING)]
    assert watch_jobs(made, context, ("test smollm2",), patience=0.0) == ("test smollm2",)
    comment = state.comment("board")
    assert ("No runner" in comment, "what stands there" in comment) == (says, not says)
    assert read_state(comment) == written


def test_a_report_that_is_written_meanwhile_stays(
    context: Context, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between the reading of the comment and the writing."""
    made, reading = asked(state), commit_view.read_commit
    report = format_status_comment("## the report", CommentState((), LastResult(777, samples.SHA, ("smollm2",), ())))

    def read_commit(*arguments: Any, **more: Any) -> Any:
        state.comments[0]["body"] = report
        return reading(*arguments, **more)

    monkeypatch.setattr(watch, "read_commit", read_commit)
    state.jobs[777] = [job("run / test smollm2", 1, **WAITING)]
    assert watch_jobs(made, context, ("test smollm2",), patience=0.0) == ("test smollm2",)
    assert state.comment("board") == report
