"""`hub-tests start`: announce a run that the gate allows: status comment, pending status; older runs are cancelled.

It runs in the queue of the pull request's reports, so nothing else writes the status comment meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ci.github import messages, pulls, workflow_runs
from ci.github.actions import write_outputs
from ci.github.client import Client
from ci.github.commit_status import RunUnderWay, set_status
from ci.github.commit_view import CommitView, read_commit
from ci.github.context import Context
from ci.github.cosmetic import try_cosmetic
from ci.github.event import CommentEvent
from ci.github.gate import GateDecision, ignore_second_start
from ci.github.pulls import Comment
from ci.github.status_comment import CommentState, StartedRun, format_status_comment, read_state
from ci.verbs.gate import find_active_runs, load_comment, write_reply

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class _Start:
    """A run that is being started. `comment` is the status comment of its pull request, `active` are other runs."""

    decision: GateDecision
    event: CommentEvent
    step: Context
    client: Client
    comment: Comment | None
    state: CommentState
    active: tuple[StartedRun, ...]

    @property
    def run(self) -> StartedRun:
        decision = self.decision
        return StartedRun(
            self.step.run_id or 0,
            self.event.comment_id,
            decision.sha,
            decision.models,
            layers=decision.layers,
            slice=decision.slice,
            deep=decision.deep,
            consumer=decision.consumer,
        )


def start_run(context: Context, event_path: Path, decision: GateDecision) -> GateDecision:
    """Announce the run of `decision`, unless another run does the same already."""
    event = load_comment(event_path)
    with Client(context.api) as client:
        started = _start(_read_start(decision, event, context, client))
    if context.output_path:
        write_outputs(context.output_path, {"decision": started.decision})
    return started


def _read_start(decision: GateDecision, event: CommentEvent, step: Context, client: Client) -> _Start:
    comment = try_cosmetic(
        "the comment with the last result",
        lambda: pulls.find_comment(client, event.number, "status", bot=step.bot_login),
        None,
    )
    state = read_state(comment.body if comment else None)
    nothing: tuple[StartedRun, ...] = ()
    active = try_cosmetic("other runs", lambda: find_active_runs(client, state, step.run_id), nothing)
    return _Start(decision, event, step, client, comment, state, active)


def _start(start: _Start) -> GateDecision:
    event, step, client = start.event, start.step, start.client
    is_first = try_cosmetic(
        "the reaction 'rocket'", lambda: pulls.add_reaction(client, event.comment_id, "rocket"), True
    )
    known = any(run.comment_id == event.comment_id and run.run_id != step.run_id for run in start.state.runs)
    if step.run_attempt == 1 and (known or not is_first):
        return ignore_second_start(start.decision)
    if same := next((run for run in start.active if run.key == start.run.key), None):
        answer = messages.say_already_running(same, event, step.server_url)
        write_reply(client, event.number, answer, bot=step.bot_login)
        return replace(start.decision, decision="answered", reason="already running", answer=answer)
    cancelled = _cancel_stale(start)
    view = read_commit(client, start.decision.sha, run_id=step.run_id, bot=step.bot_login, started=start.state.runs)
    try_cosmetic("the comment about this run", lambda: _write_comment(start, view, cancelled), None)
    try_cosmetic("the pending status", lambda: _set_pending(start, view), None)
    return start.decision


def _cancel_stale(start: _Start) -> tuple[int, ...]:
    """Cancel the pull request's runs at other commits; return those that are gone."""
    stale = [run.run_id for run in start.active if run.sha != start.decision.sha]
    return tuple(run_id for run_id in stale if _try_cancel(start.client, run_id))


def _try_cancel(client: Client, run_id: int) -> bool:
    """Cancel a run. Return False if GitHub refuses.

    A run that has ended is as good as cancelled.
    """

    def cancel() -> bool:
        workflow_runs.cancel_run(client, run_id)
        return True

    return try_cosmetic(f"cancelling run {run_id}", cancel, False)


def _write_comment(start: _Start, view: CommitView, cancelled: tuple[int, ...]) -> None:
    decision, step = start.decision, start.step
    state = start.state
    for run_id in cancelled:
        state = state.drop_run(run_id)
    text = messages.format_running(
        decision.sha,
        decision.models,
        start.event.login,
        run_url=step.run_url,
        others=messages.format_others(view.decide(()), step.run_id),
        left_out=decision.left_out,
    )
    body = format_status_comment(text, state.add_run(start.run))
    pulls.write_comment(start.client, start.event.number, start.comment, body)


def _set_pending(start: _Start, view: CommitView) -> None:
    own = RunUnderWay(start.step.run_id or 0, start.decision.models)
    status = replace(view, under_way=(own, *view.under_way)).decide(())
    set_status(start.client, start.decision.sha, status.state, status.description, start.step.run_url)
