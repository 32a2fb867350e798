"""`hub-tests gate`: read a comment, ask GitHub for the facts, decide, answer, and name what to start."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.github import messages, pulls, workflow_runs
from ci.github.actions import write_outputs
from ci.github.client import Client
from ci.github.command import parse_command
from ci.github.commit_checks import set_status
from ci.github.context import Context
from ci.github.data_branch import read_nightly_history
from ci.github.event import CommentEvent, load_event
from ci.github.gate import GateDecision, decide, ignore_reason, ignore_second_start, refuse_without_registry
from ci.github.gate_input import GateInput, GitHubFacts, RepoSettings
from ci.github.pulls import Comment
from ci.github.status_comment import StartedRun, format_reply, format_status_comment, read_state
from ci.models import REGISTRY, load_models
from ci.report.history import Baseline

if TYPE_CHECKING:
    from pathlib import Path


def run_gate(context: Context, event_path: Path, registry: Path | None = None) -> GateDecision:
    """Decide on the comment at `event_path`, carry the decision out, and write it as outputs."""
    event = load_event("issue_comment", event_path)
    if not isinstance(event, CommentEvent):
        raise AssertionError("load_event returns the event that it is asked for")
    reason = ignore_reason(event)
    decision = GateDecision("ignored", reason) if reason else _handle_comment(event, context, registry or REGISTRY)
    if context.output_path:
        write_outputs(context.output_path, _format_outputs(decision))
    return decision


@dataclass(frozen=True)
class _CommentContext:
    """One comment that is being handled. `status_comment` is the service's own on the same pull request."""

    event: CommentEvent
    step: Context
    client: Client
    status_comment: Comment | None
    facts: GitHubFacts


def _handle_comment(event: CommentEvent, step: Context, registry: Path) -> GateDecision:
    with Client(step.api) as client:
        pulls.add_reaction(client, event.comment_id, "eyes")
        status_comment = pulls.find_comment(client, event.number, "status", bot=step.bot_login)
        comment = _CommentContext(event, step, client, status_comment, _get_facts(event, step, client, status_comment))
        settings = RepoSettings(step.inputs.subject, step.allowed_logins, step.server_url)
        baseline = read_nightly_history(client, step.data_branch) if _asks_for_plan(event) else Baseline()
        try:
            models = load_models(registry)
        except RequestError as error:
            _carry_out(refuse_without_registry(event, comment.facts.role, settings, str(error)), comment)
            raise
        return _carry_out(decide(GateInput(event, comment.facts, models, settings, baseline)), comment)


def _get_facts(event: CommentEvent, step: Context, client: Client, status_comment: Comment | None) -> GitHubFacts:
    """Get the facts from GitHub.

    A second attempt of this very run does not count as another run.
    """
    state = read_state(status_comment.body if status_comment else None)
    others = [run for run in state.runs if run.run_id != step.run_id]
    return GitHubFacts(
        role=pulls.get_role(client, event.login),
        pull=pulls.get_pull_request(client, event.number),
        active_runs=tuple(run for run in others if workflow_runs.is_active(client, run.run_id)),
        state=state,
    )


def _asks_for_plan(event: CommentEvent) -> bool:
    with suppress(RequestError):
        command = parse_command(event.body)
        return command is not None and command.plan
    return False


def _carry_out(decision: GateDecision, comment: _CommentContext) -> GateDecision:
    event, client = comment.event, comment.client
    if decision.decision == "run":
        is_first = pulls.add_reaction(client, event.comment_id, "rocket")
        if not is_first and comment.step.run_attempt == 1:
            return ignore_second_start(decision)
        _announce_run(decision, comment)
        return decision
    if decision.reaction:
        pulls.add_reaction(client, event.comment_id, decision.reaction)
    for run_id in decision.cancel:
        workflow_runs.cancel_run(client, run_id)
    reply = pulls.find_comment(client, event.number, "reply", bot=comment.step.bot_login)
    pulls.write_comment(client, event.number, reply, format_reply(decision.answer))
    return decision


def _announce_run(decision: GateDecision, comment: _CommentContext) -> None:
    """Write the run into the status comment and set the commit's status to pending."""
    event, step = comment.event, comment.step
    run = StartedRun(step.run_id or 0, event.comment_id, decision.sha, decision.models, decision.layers)
    text = messages.format_running(decision.sha, decision.models, event.login, run_url=step.run_url)
    body = format_status_comment(text, comment.facts.state.add_run(run))
    pulls.write_comment(comment.client, event.number, comment.status_comment, body)
    set_status(comment.client, decision.sha, "pending", f"testing {', '.join(decision.models)}", step.run_url)


def _format_outputs(decision: GateDecision) -> dict[str, str]:
    return {
        "decision": decision.decision,
        "sha": decision.sha,
        "models": " ".join(decision.models),
        "layers": "" if decision.layers is None else str(decision.layers),
        "pull-request": str(decision.pull_request or ""),
    }
