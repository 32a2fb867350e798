"""May this comment start a run, and at which commit? Pure: a decision over an event and fetched facts.

created comment, by a human ──► role is write or more ──► the command reads ──► open pull request ──► commit fixed
    else: ignored                  else: refused           else: refused           else: refused       else: refused

For a branch of the repository the commit is the head at this moment: only writers can move it. For a fork it is only
the one that the command names, which must be the current head, so that what runs is what the writer looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ci.errors import RequestError
from ci.github import answers
from ci.github.board import StartedRun, State
from ci.github.command import Command, parse
from ci.plan import Plan, RunRequest, make_plan

if TYPE_CHECKING:
    from ci.github.event import CommentEvent
    from ci.github.facts import House, Inquiry, Role

Decision = Literal["ignored", "refused", "answered", "cancel", "run"]
Reaction = Literal["+1", "confused", "rocket"]


@dataclass(frozen=True)
class Gate:
    """The decision. `answer` is Markdown for the pull request; `reason` one line for the log."""

    decision: Decision
    reason: str
    answer: str = ""
    reaction: Reaction | None = None
    pull_request: int | None = None
    comment_id: int | None = None
    sha: str = ""
    models: tuple[str, ...] = ()
    layers: int | Literal["auto"] | None = None
    cancel: tuple[int, ...] = ()


def unheard(event: CommentEvent) -> str | None:
    """Why this comment is none of the service's business, before anything is asked; None where it is."""
    if event.action != "created":
        return f"the comment was {event.action}, only new ones count"
    if not event.is_pull_request:
        return "the comment is on an issue, not on a pull request"
    if event.user_type != "User" or event.login.endswith("[bot]"):
        return f"{event.login} is not a human"
    try:
        command = parse(event.body)
    except RequestError:
        return None
    return None if command else "the first line is not a command"


def decide(inquiry: Inquiry) -> Gate:
    """The gate's decision on a comment that `unheard` let pass."""
    event = inquiry.event
    if why := _unauthorised(event, inquiry.facts.role, inquiry.house):
        return _refused(event, why)
    try:
        command = parse(event.body) or Command("help")
        return _obey(command, inquiry)
    except RequestError as error:
        return _refused(event, answers.misread(str(error)))


def misconfigured(event: CommentEvent, role: Role, house: House, problem: str) -> Gate:
    """The refusal of any command while the registry cannot be read; the problem is told to those who can mend it."""
    return _refused(event, _unauthorised(event, role, house) or answers.no_registry(problem))


def _unauthorised(event: CommentEvent, role: Role, house: House) -> str | None:
    if not role.writes:
        return answers.no_permission(event.login, role.name)
    if house.allowed and event.login.casefold() not in {login.casefold() for login in house.allowed}:
        return answers.not_on_the_list(event.login)
    return None


def _obey(command: Command, inquiry: Inquiry) -> Gate:
    event, facts = inquiry.event, inquiry.facts
    if command.verb == "help":
        return _answered(event, "help", answers.help_text(inquiry.models))
    if command.verb == "cancel":
        return _cancel(inquiry)
    if not facts.pull.is_open:
        return _refused(event, answers.closed())
    if command.failed:
        if why := _nothing_failed(facts.state):
            return _refused(event, why)
        command = _repeated(command, facts.state)
    plan = _plan(command, inquiry)
    if command.plan:
        return _answered(event, "plan", answers.plan_text(plan, inquiry.baseline, command))
    return _start(command, tuple(entry.name for entry in plan.entries), inquiry)


def _repeated(command: Command, state: State) -> Command:
    """With the layers that failed, unless others are asked for: with fewer the failure may not be there."""
    layers = state.last.layers if state.last else None
    return command if command.layers is not None else replace(command, layers=layers)


def _plan(command: Command, inquiry: Inquiry) -> Plan:
    last = inquiry.facts.state.last
    words = (*last.failed, *last.unsettled) if command.failed and last else command.models
    request = RunRequest("issue_comment", words, layers=command.layers, subject=inquiry.house.subject)
    return make_plan(request, inquiry.models)


def _start(command: Command, chosen: tuple[str, ...], inquiry: Inquiry) -> Gate:
    event, pull, server = inquiry.event, inquiry.facts.pull, inquiry.house.server_url
    paste = replace(command, sha=pull.head_sha)
    if command.sha is None and pull.is_fork:
        return _refused(event, answers.fork_needs_sha(paste, pull, server))
    if command.sha not in (None, pull.head_sha):
        return _refused(event, answers.not_the_head(paste, pull, server))
    wanted = StartedRun(0, event.comment_id, pull.head_sha, chosen, command.layers)
    if twin := next((run for run in inquiry.facts.active if run.key == wanted.key), None):
        return _answered(event, "already running", answers.already_running(twin, event, server))
    return Gate(
        "run",
        f"{event.login} may start {', '.join(chosen)} at {pull.head_sha}",
        reaction="rocket",
        pull_request=event.number,
        comment_id=event.comment_id,
        sha=pull.head_sha,
        models=chosen,
        layers=command.layers,
    )


def already_started(gate: Gate) -> Gate:
    """`gate`, when it turns out that this very comment has started a run before."""
    return Gate(
        "ignored", "this comment has started a run before", pull_request=gate.pull_request, comment_id=gate.comment_id
    )


def _cancel(inquiry: Inquiry) -> Gate:
    event, active = inquiry.event, inquiry.facts.active
    runs = tuple(run.run_id for run in active)
    text = answers.cancelled(active, event, inquiry.house.server_url)
    return replace(_answered(event, f"cancel {runs}", text), decision="cancel", cancel=runs)


def _nothing_failed(state: State) -> str | None:
    if state.last is None:
        return answers.no_last_run()
    return None if state.last.failed or state.last.unsettled else answers.nothing_failed(state.last)


def _answered(event: CommentEvent, reason: str, answer: str) -> Gate:
    return Gate("answered", reason, answer, "+1", event.number, event.comment_id)


def _refused(event: CommentEvent, answer: str) -> Gate:
    reason = answer.splitlines()[0]
    return Gate("refused", reason, answer, "confused", event.number, event.comment_id)
