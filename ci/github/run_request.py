"""From an event and the workflow's inputs to a RunRequest, before its commit is fixed. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ci.errors import RequestError
from ci.github.command import parse_layers, parse_part
from ci.github.event import REPOSITORY, SHA, CommentEvent, DispatchEvent, MergeGroupEvent, ScheduleEvent
from ci.plan import RunRequest, Trigger

if TYPE_CHECKING:
    from ci.github.context import Context
    from ci.github.event import Event
    from ci.github.gate_input import PullRequest
    from ci.hub.layers import LayerRequest

STORES = ("directory", "url", "cache")
"""How checkpoints travel from the fetch job to the test jobs."""


def make_run_request(event: Event, context: Context) -> RunRequest:
    """Make the request of an event and its inputs.

    `sha` is set only if the gate has fixed it.
    """
    _check_inputs(event, context)
    inputs = context.inputs
    comment = event if isinstance(event, CommentEvent) else None
    group = event if isinstance(event, MergeGroupEvent) else None
    return RunRequest(
        trigger=_find_trigger(event),
        models=inputs.models or (inputs.required if group else ()),
        layers=parse_layers_input(inputs.layers),
        slice=parse_part(inputs.slice, what=f"input slice '{inputs.slice[:50]}'") if inputs.slice else None,
        subject=inputs.subject,
        deep=inputs.deep,
        consumer=inputs.consumer,
        repository=context.repository,
        subject_repository=inputs.subject_repository or context.repository,
        subject_ref=group.head_ref if group else inputs.subject_ref,
        sha=group.head_sha if group else inputs.subject_ref if comment else "",
        pull_request=inputs.pull_request or None,
        actor=comment.login if comment else context.actor,
        comment_id=comment.comment_id if comment else None,
        run_id=context.run_id,
        run_url=context.run_url,
    )


def _check_inputs(event: Event, context: Context) -> None:
    """Raise RequestError for inputs that are wrong, or that this event or person may not give."""
    inputs = context.inputs
    if inputs.subject_repository and not REPOSITORY.fullmatch(inputs.subject_repository):
        raise RequestError(f"input subject-repository: '{inputs.subject_repository}' is not owner/name")
    if inputs.store not in ("", *STORES):
        raise RequestError(f"input store: '{inputs.store[:50]}' is not one of {', '.join(STORES)}")
    if isinstance(event, CommentEvent):
        if inputs.pull_request != event.number or not SHA.fullmatch(inputs.subject_ref):
            raise RequestError("a comment starts a run only through the gate, which names pull request and commit")
    elif inputs.pull_request and inputs.store == "cache":
        raise RequestError(
            "with store 'cache' test a pull request by its comment: a run by hand could write the caches"
        )
    if isinstance(event, DispatchEvent) and not is_allowed(event.login, context.allowed_logins):
        raise RequestError(f"{event.login} is not on the list HUB_TESTS_ALLOWED of people who may start hub-tests")
    if isinstance(event, MergeGroupEvent) and inputs.subject_repository not in ("", context.repository):
        raise RequestError("a merge group is a commit of this repository: leave the input subject-repository out")


def parse_layers_input(text: str) -> LayerRequest | None:
    """Parse the input `layers`: "" for the registry's number, a number, auto, or indices."""
    return parse_layers(text, what=f"input layers '{text[:50]}'") if text else None


def choose_head(request: RunRequest, pull: PullRequest) -> str:
    """Return the commit to test for a pull request that a person names.

    As for a comment, it must be open, and a fork needs the full commit.
    """
    if not pull.is_open:
        raise RequestError(f"pull request {pull.number} is closed: hub-tests runs on open pull requests only")
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
    return "pull-requests" if request.pull_request or request.trigger == "merge_group" else "main"


def may_fill_compile_cache(event: Event, request: RunRequest) -> bool:
    """Return whether what a run compiles may be kept for other runs: only of the subject's default branch.

    Any other commit, a pull request's for one, could leave code that the next run would load.
    """
    from_default_branch = isinstance(event, ScheduleEvent) or (
        isinstance(event, DispatchEvent) and event.ref == f"refs/heads/{event.default_branch}"
    )
    return from_default_branch and not (request.pull_request or request.subject_ref)


def is_allowed(login: str, allowed_logins: tuple[str, ...]) -> bool:
    """Return whether the repository's list lets this writer start runs; without a list every writer may."""
    return not allowed_logins or login.casefold() in {allowed.casefold() for allowed in allowed_logins}


def _find_trigger(event: Event) -> Trigger:
    triggers: dict[type[Event], Trigger] = {
        CommentEvent: "issue_comment",
        DispatchEvent: "workflow_dispatch",
        ScheduleEvent: "schedule",
        MergeGroupEvent: "merge_group",
    }
    return triggers[type(event)]
