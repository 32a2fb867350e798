"""What the gate says on a pull request: Markdown, with everybody's words made harmless. Pure."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from ci.github.command import GRAMMAR, NAME
from ci.report.escape import cell, code, escape_text, link

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.github.board import LastResult, StartedRun
    from ci.github.command import Command
    from ci.github.event import CommentEvent
    from ci.github.facts import PullRequest
    from ci.github.runs import RunJob
    from ci.models import HubModel
    from ci.plan import Plan
    from ci.report.history import Baseline


def no_permission(login: str, role: str) -> str:
    """The commenter may not push to this repository."""
    return (
        f"{code(login)} cannot start hub-tests: the role here is {code(role)}, write is needed.\n\n"
        "A maintainer can write the same command; for a fork it needs the commit, "
        f"like {code(NAME + ' --sha COMMIT')}."
    )


def not_on_the_list(login: str) -> str:
    """The commenter may push, but the repository's allow list does not name them."""
    return (
        f"{code(login)} is not on this repository's list of people who may start hub-tests.\n\n"
        "The list is the repository variable `HUB_TESTS_ALLOWED`."
    )


def misread(problem: str) -> str:
    """The command cannot be carried out as written."""
    return f"{escape_text(problem, 1500)}\n\nThe command is\n\n{_paste(GRAMMAR)}\n\n{code(NAME + ' help')} tells more."


def no_registry(problem: str) -> str:
    """What can be tested is not known."""
    return f"The registry of models cannot be read, so nothing was started.\n\n{escape_text(problem, 1500)}"


def closed() -> str:
    """The pull request is not open."""
    return "This pull request is closed: hub-tests runs on open pull requests only.\n\nReopen it and ask again."


def fork_needs_sha(command: Command, pull: PullRequest, server_url: str) -> str:
    """The head is in a fork, whose owner can move it at any time."""
    return (
        "This pull request comes from a fork: name the commit that you looked at, and only that one runs.\n\n"
        f"The head is now {_commit(pull.head_sha, pull, server_url)}. If that is what you reviewed, write\n\n"
        f"{_paste(command.line())}"
    )


def not_the_head(command: Command, pull: PullRequest, server_url: str) -> str:
    """The commit given is not what the pull request points at."""
    return (
        "That commit is not the head of this pull request: nothing was started.\n\n"
        f"The head is now {_commit(pull.head_sha, pull, server_url)}. If that is what you want, write\n\n"
        f"{_paste(command.line())}"
    )


def already_running(run: StartedRun, event: CommentEvent, server_url: str) -> str:
    """The same models at the same commit are being tested."""
    names = ", ".join(code(name) for name in run.models)
    return f"{names} at {code(run.sha[:12])} is being tested already: {run_link(run.run_id, event, server_url)}."


def cancelled(runs: Sequence[StartedRun], event: CommentEvent, server_url: str) -> str:
    """What was asked to stop."""
    if not runs:
        return "Nothing is running for this pull request."
    links = ", ".join(run_link(run.run_id, event, server_url) for run in runs)
    return f"Cancelling {links}. What has finished by now will still be reported."


def no_last_run() -> str:
    """`--failed`, before any run has finished."""
    return f"No run has finished on this pull request yet: there is nothing to repeat.\n\nStart one with {code(NAME)}."


def nothing_failed(last: LastResult) -> str:
    """`--failed`, after a green run."""
    return f"Nothing failed in the last run here, at {code(last.sha[:12])}: there is nothing to repeat."


def help_text(models: Mapping[str, HubModel]) -> str:
    """The command, its words, and what can be tested."""
    groups: dict[str, list[str]] = {}
    for model in models.values():
        for group in model.groups:
            groups.setdefault(group, []).append(model.name)
    lines = ["The command is the first line of a comment:", "", _paste(GRAMMAR), ""]
    lines += [
        "- no model means the group `@default`; a glob is like `qwen2-*`",
        "- `--layers` keeps that many layers, or `auto` the fewest that hold every kind of layer",
        "- `--sha` names the commit; a pull request from a fork needs it",
        "- `--failed` repeats what failed in the last run here",
        "- `--plan` says what would run and how long it takes, and starts nothing",
        "- `cancel` stops what runs for this pull request",
        "",
        "| group | models |",
        "|---|---|",
    ]
    return "\n".join([*lines, *(f"| {cell(code('@' + g))} | {_some(groups[g])} |" for g in sorted(groups))])


def plan_text(plan: Plan, baseline: Baseline, command: Command) -> str:
    """Entries and estimated minutes. An entry without history is estimated by the median of the others."""
    known = {entry.name: baseline.median_seconds(entry.name) for entry in plan.entries}
    measured = [seconds for seconds in known.values() if seconds is not None]
    rows = []
    for entry in plan.entries:
        seconds = known[entry.name]
        minutes = f"{seconds / 60:.1f}" if seconds is not None else "no history"
        rows.append(
            f"| {cell(code(entry.name))} | {cell(code(entry.model.model_id))} | {entry.model.num_layers_to_keep} "
            f"| {len(entry.tests)} | {minutes} |"
        )
    total = sum(measured) + (len(known) - len(measured)) * (median(measured) if measured else 0)
    estimate = f"about {total / 60:.0f} GPU minutes by the last nights" if measured else "no history to estimate from"
    start = replace(command, plan=False).line()
    return "\n".join(
        [
            f"{len(rows)} {'entry' if len(rows) == 1 else 'entries'}, {estimate}. Nothing was started.",
            "",
            "| model | Hub id | layers | tests | minutes |",
            "|---|---|--:|--:|--:|",
            *rows,
            "",
            f"To start it, write {code(start)}.",
        ]
    )


def started(sha: str, models: Sequence[str], login: str, *, run_url: str, waiting: str = "") -> str:
    """The board while the run is under way; `waiting` says what it waits for."""
    page = link("the run", run_url) or "the run"
    text = f"### hub-tests: running\n\n{_names(models)} at {code(sha[:12])}, asked for by {code(login)}: {page}."
    return f"{text}\n\n{waiting or 'The result will stand here.'}"


def no_runner(jobs: Sequence[RunJob]) -> str:
    """No machine takes these jobs: which labels they ask for, and since when."""
    first = min((job.created_at or "" for job in jobs), default="")
    labels = ", ".join(code(label) for label in dict.fromkeys(label for job in jobs for label in job.labels))
    names = _names([job.own_name for job in jobs])
    since = f" since {escape_text(first[:16].replace('T', ' '))} UTC" if first else ""
    return (
        f"⏳ **No runner with the labels {labels} has taken {names}{since}.** They are offline, busy, or do not exist; "
        f"the jobs wait for up to a day. {code(NAME + ' cancel')} ends that."
    )


def run_link(run_id: int, event: CommentEvent, server_url: str) -> str:
    """A Markdown link to a workflow run of the event's repository."""
    return f"[run {run_id}]({server_url}/{event.repository}/actions/runs/{run_id})"


def _commit(sha: str, pull: PullRequest, server_url: str) -> str:
    return f"[{code(sha[:12])}]({server_url}/{pull.repository}/pull/{pull.number}/commits/{sha})"


def _names(names: Sequence[str]) -> str:
    return ", ".join(cell(code(name)) for name in names)


def _some(names: Sequence[str], most: int = 40) -> str:
    """The first names of many: a registry of hundreds in several groups would not fit into a comment."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return _names(names[:most]) + more


def _paste(line: str) -> str:
    return f"```text\n{line}\n```"
