"""Event and inputs → the words of a RunRequest, before its commit is fixed. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from ci.errors import RequestError
from ci.github.command import MAX_LAYERS, SHA
from ci.github.event import REPOSITORY, CommentEvent, DispatchEvent
from ci.plan import RunRequest, Trigger

if TYPE_CHECKING:
    from ci.github.context import Context
    from ci.github.event import Event
    from ci.github.facts import PullRequest


def request_of(event: Event, context: Context) -> RunRequest:
    """What the event and the workflow's inputs ask for; `sha` only where the gate has fixed it already."""
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
        trigger=_trigger(event),
        models=inputs.models,
        layers=layers_of(inputs.layers),
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


def layers_of(text: str) -> int | Literal["auto"] | None:
    """The `layers` input: "" for the registry's, a count, or auto."""
    if text in ("", "auto"):
        return "auto" if text else None
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_LAYERS:
        raise RequestError(f"input layers: '{text[:50]}', expected a number from 1 to {MAX_LAYERS}, or auto")
    return int(text)


def head_for(request: RunRequest, pull: PullRequest) -> str:
    """The commit to test when somebody names a pull request: as for a comment, a fork's must be given in full."""
    given = request.subject_ref.lower()
    if not given and not pull.is_fork:
        return pull.head_sha
    if given != pull.head_sha:
        why = "comes from a fork: name the commit you looked at" if not given else f"is not at {given[:40]}"
        raise RequestError(f"pull request {pull.number} {why}: its head is {pull.head_sha}, give it as subject-ref")
    return pull.head_sha


def scope_of(request: RunRequest) -> Literal["pull-requests", "main"]:
    """Which checkpoints a run may write: what a pull request's run leaves is never read by the nightly one."""
    return "pull-requests" if request.pull_request else "main"


def _trigger(event: Event) -> Trigger:
    if isinstance(event, CommentEvent):
        return "issue_comment"
    return "workflow_dispatch" if isinstance(event, DispatchEvent) else "schedule"
