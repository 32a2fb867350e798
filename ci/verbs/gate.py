"""`hub-tests gate`: read a comment, ask GitHub for the facts, decide, and answer. `hub-tests start` does the rest.

A gate runs for anybody's comment, so its job waits in no queue in which a report waits, and it writes neither the
status comment nor a status.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.github import pulls, workflow_runs
from ci.github.actions import write_outputs
from ci.github.client import Client
from ci.github.command import parse_command
from ci.github.context import Context
from ci.github.cosmetic import try_cosmetic
from ci.github.data_branch import read_nightly_history
from ci.github.event import CommentEvent, load_event
from ci.github.gate import GateDecision, decide, ignore_reason, refuse_without_registry
from ci.github.gate_input import GateInput, GitHubFacts, RepoSettings
from ci.github.job_outputs import pack_record
from ci.github.status_comment import format_reply, read_state
from ci.hub.layers import format_layers
from ci.models import REGISTRY, load_models
from ci.plan import announce_adapter
from ci.report.history import Baseline
from ci.verbs.plan import read_adapter

if TYPE_CHECKING:
    from ci.github.status_comment import CommentState, StartedRun


def run_gate(
    context: Context, event_path: Path, registry: Path | None = None, caller: Path | None = None
) -> GateDecision:
    """Decide on the comment at `event_path`, answer it, and write the decision as outputs.

    `caller` is the checkout of the default branch, where the subject is described by a file of it.
    """
    event = load_comment(event_path)
    reason = ignore_reason(event)
    files = _CallersFiles(registry or REGISTRY, caller or Path("caller"))
    decision = GateDecision("ignored", reason) if reason else _handle_comment(event, context, files)
    if context.output_path:
        write_outputs(context.output_path, _format_outputs(decision))
    return decision


def load_comment(event_path: Path) -> CommentEvent:
    """Read the event of a comment."""
    event = load_event("issue_comment", event_path)
    if not isinstance(event, CommentEvent):
        raise AssertionError("load_event returns the event that it is asked for")
    return event


def find_active_runs(client: Client, state: CommentState, run_id: int | None) -> tuple[StartedRun, ...]:
    """Find the started runs that have not ended, without the run `run_id` and its earlier attempts."""
    others = [run for run in state.runs if run.run_id != run_id]
    return tuple(run for run in others if workflow_runs.is_active(client, run.run_id))


def write_reply(client: Client, number: int, answer: str, *, bot: str) -> None:
    """Write the answer to a command; a run does not depend on it."""

    def write() -> None:
        pulls.write_comment(client, number, pulls.find_comment(client, number, "reply", bot=bot), format_reply(answer))

    try_cosmetic("the answer on the pull request", write, None)


@dataclass(frozen=True)
class _CallersFiles:
    """The registry, and the checkout of the default branch."""

    registry: Path
    caller: Path


@dataclass(frozen=True)
class _CommentContext:
    """One comment that is being handled."""

    event: CommentEvent
    step: Context
    client: Client
    facts: GitHubFacts


def _handle_comment(event: CommentEvent, step: Context, files: _CallersFiles) -> GateDecision:
    with Client(step.api) as client:
        _react(client, event, "eyes")
        comment = _CommentContext(event, step, client, _get_facts(event, step, client))
        settings = RepoSettings(step.inputs.subject, step.allowed_logins, step.server_url)
        try:
            models = load_models(files.registry)
            adapter = read_adapter(step.inputs.subject, files.caller)
            settings = replace(
                settings, subject=announce_adapter(adapter) or settings.subject, described=adapter is not None
            )
        except RequestError as error:
            _carry_out(refuse_without_registry(event, comment.facts.role, settings, str(error)), comment)
            raise
        baseline = _read_baseline(client, step) if _needs_history(event) else Baseline()
        return _carry_out(decide(GateInput(event, comment.facts, models, settings, baseline)), comment)


def _get_facts(event: CommentEvent, step: Context, client: Client) -> GitHubFacts:
    """Get the facts from GitHub: for a commenter who may not write, only the role."""
    role = pulls.get_role(client, event.login)
    pull = pulls.get_pull_request(client, event.number)
    if not role.can_write:
        return GitHubFacts(role, pull)
    status_comment = try_cosmetic(
        "the comment with the last result",
        lambda: pulls.find_comment(client, event.number, "status", bot=step.bot_login),
        None,
    )
    state = read_state(status_comment.body if status_comment else None)
    return GitHubFacts(role, pull, find_active_runs(client, state, step.run_id), state)


def _needs_history(event: CommentEvent) -> bool:
    with suppress(RequestError):
        command = parse_command(event.body)
        return command is not None and (command.plan or command.verb == "bisect")
    return False


def _read_baseline(client: Client, step: Context) -> Baseline:
    return try_cosmetic("the nightly history", lambda: read_nightly_history(client, step.data_branch), Baseline())


def _carry_out(decision: GateDecision, comment: _CommentContext) -> GateDecision:
    event, client = comment.event, comment.client
    if decision.decision == "run":
        return decision
    if decision.reaction:
        _react(client, event, decision.reaction)
    for run_id in decision.cancel:
        workflow_runs.cancel_run(client, run_id)
    write_reply(client, event.number, decision.answer, bot=comment.step.bot_login)
    return decision


def _react(client: Client, event: CommentEvent, content: str) -> None:
    try_cosmetic(f"the reaction '{content}'", lambda: pulls.add_reaction(client, event.comment_id, content), True)


def _format_outputs(decision: GateDecision) -> dict[str, str]:
    return {
        "decision": decision.decision,
        "record": pack_record(decision) if decision.decision == "run" else "",
        "sha": decision.sha,
        "models": " ".join(decision.models),
        "layers": "" if decision.layers is None else format_layers(decision.layers),
        "slice": "" if decision.slice is None else str(decision.slice),
        "deep": "true" if decision.deep else "false",
        "consumer": decision.consumer or "",
        "pull-request": str(decision.pull_request or ""),
    }
