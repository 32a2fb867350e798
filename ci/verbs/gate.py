"""`hub-tests gate`: hear a comment, ask GitHub for the facts, decide, answer, and say what to start."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.github import answers, pulls, runs
from ci.github.actions import write_outputs
from ci.github.board import StartedRun, read_state, write_answer, write_board
from ci.github.branch import read_history_of
from ci.github.checks import set_status
from ci.github.client import Client
from ci.github.command import parse
from ci.github.context import Context
from ci.github.event import CommentEvent, load_event
from ci.github.facts import Facts, House, Inquiry
from ci.github.gate import Gate, already_started, decide, misconfigured, unheard
from ci.github.pulls import Comment
from ci.models import REGISTRY, load_models
from ci.report.history import Baseline

if TYPE_CHECKING:
    from pathlib import Path


def gate(context: Context, event_path: Path, registry: Path | None = None) -> Gate:
    """The decision on the comment at `event_path`, carried out on the pull request and written as outputs."""
    event = load_event("issue_comment", event_path)
    if not isinstance(event, CommentEvent):
        raise AssertionError("load_event keeps to the name it is given")
    why = unheard(event)
    decision = Gate("ignored", why) if why else _hear(event, context, registry or REGISTRY)
    if context.output:
        write_outputs(context.output, _outputs(decision))
    return decision


@dataclass(frozen=True)
class _Desk:
    """One comment being dealt with."""

    event: CommentEvent
    context: Context
    client: Client
    board: Comment | None
    facts: Facts


def _hear(event: CommentEvent, context: Context, registry: Path) -> Gate:
    with Client(context.api) as client:
        pulls.react(client, event.comment_id, "eyes")
        board = pulls.find_comment(client, event.number, "board", bot=context.bot)
        desk = _Desk(event, context, client, board, _facts(event, context, client, board))
        house = House(context.inputs.subject, context.allowed, context.server_url)
        baseline = read_history_of(client, context.data_branch) if _asks_for_a_plan(event) else Baseline()
        try:
            models = load_models(registry)
        except RequestError as error:
            _carry_out(misconfigured(event, desk.facts.role, house, str(error)), desk)
            raise
        return _carry_out(decide(Inquiry(event, desk.facts, models, house, baseline)), desk)


def _facts(event: CommentEvent, context: Context, client: Client, board: Comment | None) -> Facts:
    """What GitHub says. A later attempt of this very run is not its own rival."""
    state = read_state(board.body if board else None)
    rivals = [run for run in state.runs if run.run_id != context.run_id]
    return Facts(
        role=pulls.role(client, event.login),
        pull=pulls.pull_request(client, event.number),
        active=tuple(run for run in rivals if runs.is_active(client, run.run_id)),
        state=state,
    )


def _asks_for_a_plan(event: CommentEvent) -> bool:
    with suppress(RequestError):
        command = parse(event.body)
        return command is not None and command.plan
    return False


def _carry_out(decision: Gate, desk: _Desk) -> Gate:
    event, client = desk.event, desk.client
    if decision.decision == "run":
        first = pulls.react(client, event.comment_id, "rocket")
        if not first and desk.context.run_attempt == 1:
            return already_started(decision)
        _announce(decision, desk)
        return decision
    if decision.reaction:
        pulls.react(client, event.comment_id, decision.reaction)
    for run_id in decision.cancel:
        runs.cancel(client, run_id)
    found = pulls.find_comment(client, event.number, "answer", bot=desk.context.bot)
    pulls.keep_comment(client, event.number, found, write_answer(decision.answer))
    return decision


def _announce(decision: Gate, desk: _Desk) -> None:
    """The board says that the run is under way, and the commit shows it as pending."""
    event, context = desk.event, desk.context
    run = StartedRun(context.run_id or 0, event.comment_id, decision.sha, decision.models, decision.layers)
    text = answers.started(decision.sha, decision.models, event.login, run_url=context.run_url)
    pulls.keep_comment(desk.client, event.number, desk.board, write_board(text, desk.facts.state.started(run)))
    set_status(desk.client, decision.sha, "pending", f"testing {', '.join(decision.models)}", context.run_url)


def _outputs(decision: Gate) -> dict[str, str]:
    return {
        "decision": decision.decision,
        "sha": decision.sha,
        "models": " ".join(decision.models),
        "layers": "" if decision.layers is None else str(decision.layers),
        "pull-request": str(decision.pull_request or ""),
    }
