"""The gate: may this comment start a run, and at which commit? A pure decision over an event and fetched facts.

created comment, by a human ──► role is write or more ──► the command parses ──► open pull request ──► commit fixed
    else: ignored                  else: refused            else: refused            else: refused       else: refused

For a branch of the repository the commit is the head at this moment: only writers can move it. For a fork it is only
the commit that the command names. It must be the current head, so that the code that runs is the code that was
reviewed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ci.consumers.registry import ConsumerName
from ci.errors import RequestError
from ci.github import messages
from ci.github.bisect_lines import SubjectAddress, find_failing_nights, format_line, format_lines
from ci.github.command import Command, parse_command
from ci.github.run_request import is_allowed
from ci.github.status_comment import CommentState, StartedRun
from ci.hub.layers import LayerRequest
from ci.hub.slices import Slice
from ci.known_refusals import describe_left_out
from ci.models import select_models
from ci.plan import Plan, RunRequest, make_plan

if TYPE_CHECKING:
    from ci.github.event import CommentEvent
    from ci.github.gate_input import GateInput, RepoSettings, Role

DecisionKind = Literal["ignored", "refused", "answered", "cancel", "run"]
Reaction = Literal["+1", "confused", "rocket"]


@dataclass(frozen=True)
class GateDecision:
    """The decision. `answer` is Markdown for the pull request; `reason` is one line for the log.

    `left_out` says which models are left out, because the subject is known to refuse them.
    """

    decision: DecisionKind
    reason: str
    answer: str = ""
    reaction: Reaction | None = None
    pull_request: int | None = None
    comment_id: int | None = None
    sha: str = ""
    models: tuple[str, ...] = ()
    layers: LayerRequest | None = None
    deep: bool = False
    consumer: ConsumerName | None = None
    cancel: tuple[int, ...] = ()
    slice: Slice | None = None
    left_out: str = ""


def ignore_reason(event: CommentEvent) -> str | None:
    """Return why this comment is ignored before GitHub is asked anything; None if it is not."""
    if event.action != "created":
        return f"the comment was {event.action}, only new ones count"
    if not event.is_pull_request:
        return "the comment is on an issue, not on a pull request"
    if event.user_type != "User" or event.login.endswith("[bot]"):
        return f"{event.login} is not a human"
    try:
        command = parse_command(event.body)
    except RequestError:
        return None
    return None if command else "the first line is not a command"


def decide(gate_input: GateInput) -> GateDecision:
    """Decide on a comment that has no `ignore_reason`."""
    event = gate_input.event
    if refusal := _check_permission(event, gate_input.facts.role, gate_input.settings):
        return _refuse(event, refusal)
    try:
        command = parse_command(event.body) or Command("help")
        return _handle_command(command, gate_input)
    except RequestError as error:
        return _refuse(event, messages.say_bad_command(str(error)))


def refuse_without_registry(event: CommentEvent, role: Role, settings: RepoSettings, problem: str) -> GateDecision:
    """Refuse any command while the registry cannot be read; only writers are told the problem."""
    return _refuse(event, _check_permission(event, role, settings) or messages.say_no_registry(problem))


def ignore_second_start(decision: GateDecision) -> GateDecision:
    """Replace a decision to run if this very comment has started a run before."""
    return GateDecision(
        "ignored",
        "this comment has started a run before",
        pull_request=decision.pull_request,
        comment_id=decision.comment_id,
    )


def _check_permission(event: CommentEvent, role: Role, settings: RepoSettings) -> str | None:
    """Return the refusal for a commenter who may not give commands, else None."""
    if not role.can_write:
        return messages.say_no_permission(event.login, role.name)
    if not is_allowed(event.login, settings.allowed_logins):
        return messages.say_not_allowed(event.login)
    return None


def _handle_command(command: Command, gate_input: GateInput) -> GateDecision:
    event, facts = gate_input.event, gate_input.facts
    if command.verb == "help":
        return _answer(event, "help", messages.format_help(gate_input.models))
    if command.verb == "cancel":
        return _cancel_runs(gate_input)
    if command.verb == "bisect":
        return _offer_bisect(command.models[0], gate_input)
    if not facts.pull.is_open:
        return _refuse(event, messages.say_closed())
    if command.failed:
        if refusal := _check_last_result(facts.state):
            return _refuse(event, refusal)
        command = _as_last_time(command, facts.state)
    plan = _plan_run(command, gate_input)
    if command.plan:
        nights = gate_input.baseline.select_subsets({entry.name: entry.model.subset for entry in plan.entries})
        return _answer(event, "plan", messages.format_plan(plan, nights, command))
    return _start_run(command, plan, gate_input)


def _offer_bisect(name: str, gate_input: GateInput) -> GateDecision:
    """Answer with the lines that find the change: on main since a night passed, else on this pull request."""
    (model,) = select_models(gate_input.models, [name])
    pull, settings = gate_input.facts.pull, gate_input.settings
    name = "" if settings.described else settings.subject  # how a described adapter is found on a machine is not known
    subject = SubjectAddress(name, f"{settings.server_url}/{pull.repository}")
    nights_of_part = gate_input.baseline.select_subsets({model.name: model.subset})
    records = nights_of_part.records.get(model.name, ())
    nights = find_failing_nights(records)
    passed = next((record for record in reversed(records) if record.verdict == "passed"), None)
    if nights:
        lines, where = format_lines(nights, subject), f"broke on main between {nights.passed.date[:10]} and "
        where += nights.failed.date[:10]
    elif passed and not pull.is_fork:
        where = f"passed on main on {passed.date[:10]}; if it fails at this pull request's head"
        lines = [format_line(model.name, "commits", passed.sha, pull.head_sha, subject, device=passed.device)]
    else:
        lines, where = [], "has no night that passed" if passed is None else "passed in the newest night on main"
    answer = messages.format_bisect(model.name, where, [line for line in lines if line])
    return _answer(gate_input.event, f"bisect {model.name}", answer)


def _check_last_result(state: CommentState) -> str | None:
    """Return the refusal if `--failed` has nothing to repeat, else None."""
    if state.last is None:
        return messages.say_no_last_run()
    return None if state.last.failed or state.last.unsettled else messages.say_nothing_failed(state.last)


def _as_last_time(command: Command, state: CommentState) -> Command:
    """Return `command` with the last run's layers, slice, deep tests and engine.

    Layers, slice and an engine of its own stay. With fewer layers, rows or tests the failure may disappear.
    """
    if state.last is None:
        return command
    layers = state.last.layers if command.layers is None else command.layers
    part = state.last.slice if command.slice is None else command.slice
    consumer = command.consumer or state.last.consumer
    deep = command.deep or state.last.deep
    return replace(command, layers=layers, slice=part, deep=deep, consumer=consumer)


def _plan_run(command: Command, gate_input: GateInput) -> Plan:
    last = gate_input.facts.state.last
    models = (*last.failed, *last.unsettled) if command.failed and last else command.models
    request = RunRequest(
        "issue_comment",
        models,
        layers=command.layers,
        slice=command.slice,
        deep=command.deep,
        subject=gate_input.settings.subject,
        consumer=command.consumer,
    )
    return make_plan(request, gate_input.models)


def _start_run(command: Command, plan: Plan, gate_input: GateInput) -> GateDecision:
    models = tuple(entry.name for entry in plan.entries)
    event, pull, server = gate_input.event, gate_input.facts.pull, gate_input.settings.server_url
    suggested = replace(command, sha=pull.head_sha)
    if command.sha is None and pull.is_fork:
        return _refuse(event, messages.say_fork_needs_sha(suggested, pull, server))
    if command.sha not in (None, pull.head_sha):
        return _refuse(event, messages.say_not_head(suggested, pull, server))
    how: dict[str, Any] = {
        "layers": command.layers,
        "slice": command.slice,
        "deep": command.deep,
        "consumer": command.consumer,
    }
    wanted = StartedRun(0, event.comment_id, pull.head_sha, models, **how)
    if same := next((run for run in gate_input.facts.active_runs if run.key == wanted.key), None):
        return _answer(event, "already running", messages.say_already_running(same, event, server))
    return GateDecision(
        "run",
        f"{event.login} may start {', '.join(models)} at {pull.head_sha}",
        reaction="rocket",
        pull_request=event.number,
        comment_id=event.comment_id,
        sha=pull.head_sha,
        models=models,
        left_out=describe_left_out(plan.left_out),
        **how,
    )


def _cancel_runs(gate_input: GateInput) -> GateDecision:
    event, active = gate_input.event, gate_input.facts.active_runs
    run_ids = tuple(run.run_id for run in active)
    answer = messages.say_cancelled(active, event, gate_input.settings.server_url)
    return replace(_answer(event, f"cancel {run_ids}", answer), decision="cancel", cancel=run_ids)


def _answer(event: CommentEvent, reason: str, answer: str) -> GateDecision:
    return GateDecision("answered", reason, answer, "+1", event.number, event.comment_id)


def _refuse(event: CommentEvent, answer: str) -> GateDecision:
    reason = answer.splitlines()[0]
    return GateDecision("refused", reason, answer, "confused", event.number, event.comment_id)
