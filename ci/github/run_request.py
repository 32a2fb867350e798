"""From an event and the workflow's inputs to a RunRequest, before its commit is fixed. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ci.errors import RequestError
from ci.github.command import SHA, parse_layers
from ci.github.event import REPOSITORY, CommentEvent, DispatchEvent
from ci.plan import RunRequest, Trigger

if TYPE_CHECKING:
    from ci.github.context import Context
    from ci.github.event import Event
    from ci.github.gate_input import PullRequest


def make_run_request(event: Event, context: Context) -> RunRequest:
    """Make the request of an event and its inputs.

    `sha` is set only if the gate has fixed it.
    """
    inputs = context.inputs
    if inputs.subject_repository and not REPOSITORY.fullmatch(inputs.subject_repository):
        raise RequestError(f"input subject-repository: '{inputs.subject_repository}' is not owner/name")
    comment = event if isinstance(event, CommentEvent) else None
    if comment and not (inputs.pull_request == comment.number and SHA.fullmatch(inputs.subject_ref)):
        raise RequestError("a comment starts a run only through the gate, which names pull request and commit")
    if inputs.pull_request and not comment and inputs.store == "cache":
        raise RequestError(
            "with store 'cache' test a pull request by its comment: a run by hand could write the caches"
        )
    return RunRequest(
        trigger=_find_trigger(event),
        models=inputs.models,
        layers=parse_layers_input(inputs.layers),
        subject=inputs.subject,
        deep=inputs.deep,
        repository=context.repository,
        subject_repository=inputs.subject_repository or context.repository,
        subject_ref=inputs.subject_ref,
        sha=inputs.subject_ref if comment else "",
        pull_request=inputs.pull_request or None,
        actor=comment.login if comment else context.actor,
        comment_id=comment.comment_id if comment else None,
        run_id=context.run_id,
        run_url=context.run_url,
    )


def parse_layers_input(text: str) -> int | Literal["auto"] | None:
    """Parse the input `layers`: "" for the registry's number, a number, or auto."""
    return parse_layers(text, what=f"input layers '{text[:50]}'") if text else None


def choose_head(request: RunRequest, pull: PullRequest) -> str:
    """Return the commit to test for a pull request that a person names.

    As for a comment, a fork needs the full commit.
    """
    requested = request.subject_ref.lower()
    if not requested and not pull.is_fork:
        return pull.head_sha
    if requested != pull.head_sha:
        reason = f"is not at {requested[:40]}" if requested else "comes from a fork: name the commit you reviewed"
        raise RequestError(f"pull request {pull.number} {reason}: its head is {pull.head_sha}, give it as subject-ref")
    return pull.head_sha


def choose_scope(request: RunRequest) -> Literal["pull-requests", "main"]:
    """Return the part of the store that a run writes.

    The nightly run never reads what a pull request's run wrote.
    """
    return "pull-requests" if request.pull_request else "main"


def _find_trigger(event: Event) -> Trigger:
    if isinstance(event, CommentEvent):
        return "issue_comment"
    return "workflow_dispatch" if isinstance(event, DispatchEvent) else "schedule"
