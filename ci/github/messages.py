"""The texts that the service writes on a pull request: Markdown, with all foreign text escaped. Pure functions."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from ci.consumers.registry import CONSUMERS
from ci.github.command import COMMAND, GRAMMAR
from ci.known_refusals import describe_left_out
from ci.models import describe_override
from ci.report.escape import cell, code, escape_text, link

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.github.command import Command
    from ci.github.commit_results import ModelResult
    from ci.github.commit_status import CommitStatus
    from ci.github.event import CommentEvent
    from ci.github.gate_input import PullRequest
    from ci.github.status_comment import LastResult, StartedRun
    from ci.github.workflow_runs import WorkflowJob
    from ci.models import HubModel
    from ci.plan import Plan
    from ci.report.history import Baseline

MAX_PROBLEM_CHARS = 1500
MAX_HEADLINE_CHARS = 300
MAX_NAMES = 40
"""Names in one list: a registry of hundreds of models in several groups would not fit into a comment."""


def say_no_permission(login: str, role: str) -> str:
    """Say that the commenter may not push to this repository."""
    return (
        f"{code(login)} cannot start hub-tests: the role here is {code(role)}, write is needed.\n\n"
        "A maintainer can write the same command. For a fork it needs the commit: "
        f"{code(COMMAND + ' --sha COMMIT')}."
    )


def say_not_allowed(login: str) -> str:
    """Say that the commenter may push, but is not on the repository's allow list."""
    return (
        f"{code(login)} is not on this repository's list of people who may start hub-tests.\n\n"
        "The list is the repository variable `HUB_TESTS_ALLOWED`."
    )


def say_bad_command(problem: str) -> str:
    """Say why the command cannot be carried out, and show its grammar."""
    return (
        f"{escape_text(problem, MAX_PROBLEM_CHARS)}\n\n"
        f"The command is\n\n{_code_block(GRAMMAR)}\n\nFor more, write {code(COMMAND + ' help')}."
    )


def say_no_registry(problem: str) -> str:
    """Say that the registry of models cannot be read."""
    return (
        f"The registry of models cannot be read, so nothing was started.\n\n{escape_text(problem, MAX_PROBLEM_CHARS)}"
    )


def say_closed() -> str:
    """Say that the pull request is not open."""
    return (
        "This pull request is closed: hub-tests runs on open pull requests only.\n\n"
        "Reopen it and write the command again."
    )


def say_fork_needs_sha(command: Command, pull: PullRequest, server_url: str) -> str:
    """Say that a fork needs a commit: its owner can move the head at any time."""
    return (
        "This pull request comes from a fork: name the commit that you reviewed. Only that commit runs.\n\n"
        f"The head is now {_link_commit(pull.head_sha, pull, server_url)}. If that is what you reviewed, write\n\n"
        f"{_code_block(command.format_line())}"
    )


def say_not_head(command: Command, pull: PullRequest, server_url: str) -> str:
    """Say that the given commit is not the head of the pull request."""
    return (
        "That commit is not the head of this pull request: nothing was started.\n\n"
        f"The head is now {_link_commit(pull.head_sha, pull, server_url)}. If that is what you want, write\n\n"
        f"{_code_block(command.format_line())}"
    )


def say_already_running(run: StartedRun, event: CommentEvent, server_url: str) -> str:
    """Say that the same models at the same commit are being tested."""
    names = ", ".join(code(name) for name in run.models)
    return f"{names} at {code(run.sha[:12])} is being tested already: {link_run(run.run_id, event, server_url)}."


def say_cancelled(runs: Sequence[StartedRun], event: CommentEvent, server_url: str) -> str:
    """Say which runs are being cancelled."""
    if not runs:
        return "Nothing is running for this pull request."
    links = ", ".join(link_run(run.run_id, event, server_url) for run in runs)
    return f"Cancelling {links}. Tests that have finished will still be reported."


def say_no_last_run() -> str:
    """Say that `--failed` has nothing to repeat, because no run has finished."""
    return (
        "No run has finished on this pull request yet: there is nothing to repeat.\n\n"
        f"To start one, write {code(COMMAND)}."
    )


def say_nothing_failed(last: LastResult) -> str:
    """Say that `--failed` has nothing to repeat, because the last run passed."""
    return f"Nothing failed in the last run here, at {code(last.sha[:12])}: there is nothing to repeat."


def format_help(models: Mapping[str, HubModel]) -> str:
    """Format the help: the command, its options, and the groups of models."""
    groups: dict[str, list[str]] = {}
    for model in models.values():
        for group in model.groups:
            groups.setdefault(group, []).append(model.name)
    lines = ["The command is the first line of a comment:", "", _code_block(GRAMMAR), ""]
    lines += [
        "- without a model, the group `@default` is tested; a glob is like `qwen2-*`",
        "- `--layers` keeps that many layers; `auto` keeps the fewest that hold every kind of layer; `0,3` keeps these",
        "- `--slice` keeps the first rows of the vocabulary and the first experts, like `vocab=4096,experts=4`",
        "- `--deep` also tests each config key, each weight on disk and each gradient",
        f"- `--consumer` also serves each export with an engine, {' or '.join(map(code, CONSUMERS))}",
        "- `--sha` names the commit; a pull request from a fork needs it",
        "- `--failed` repeats what failed in the last run here",
        "- `--plan` shows what would run and how long it takes, and starts nothing",
        "- `bisect MODEL` answers with the line that finds the change which broke a model",
        "- `cancel` stops what runs for this pull request",
        "",
        "| group | models |",
        "|---|---|",
    ]
    return "\n".join([*lines, *(f"| {cell(code('@' + g))} | {_list_first(groups[g])} |" for g in sorted(groups))])


def format_bisect(model: str, where: str, lines: Sequence[str]) -> str:
    """Format the lines that find the change which broke a model."""
    head = f"{code(model)} {escape_text(where)}."
    if not lines:
        return f"{head} There is nothing to search here: name the ends yourself (`hub-tests bisect -h`)."
    several = " Each line searches one of the things that changed." if len(lines) > 1 else ""
    return f"{head}{several}\n\n{_code_block(chr(10).join(lines))}\n\nIt goes on where it was ended."


def format_plan(plan: Plan, baseline: Baseline, command: Command) -> str:
    """Format the entries and the estimated minutes.

    An entry without history counts as the median of the others.
    """
    seconds_by_entry = {entry.name: baseline.median_seconds(entry.name) for entry in plan.entries}
    measured = [seconds for seconds in seconds_by_entry.values() if seconds is not None]
    rows = []
    for entry in plan.entries:
        seconds = seconds_by_entry[entry.name]
        minutes = f"{seconds / 60:.1f}" if seconds is not None else "no history"
        rows.append(
            f"| {cell(code(entry.name))} | {cell(code(entry.model.model_id))} | {cell(entry.model.part)} "
            f"| {len(entry.tests)} | {minutes} |"
        )
    left_out = describe_left_out(plan.left_out)
    total = sum(measured) + (len(rows) - len(measured)) * (median(measured) if measured else 0)
    estimate = f"about {total / 60:.0f} GPU minutes by the last nights" if measured else "no history to estimate from"
    start = replace(command, plan=False).format_line()
    return "\n".join(
        [
            f"{len(rows)} {'entry' if len(rows) == 1 else 'entries'}, {estimate}. Nothing was started.",
            "",
            "| model | Hub id | layers | tests | minutes |",
            "|---|---|--:|--:|--:|",
            *rows,
            "",
            *([escape_text(left_out, MAX_PROBLEM_CHARS), ""] if left_out else []),
            f"To start it, write {code(start)}.",
        ]
    )


def format_running(
    sha: str,
    models: Sequence[str],
    login: str,
    *,
    run_url: str,
    waiting: str = "",
    others: str = "",
    left_out: str = "",
) -> str:
    """Format the status of a run under way.

    `waiting` is about jobs without a runner, `others` about other runs at the commit, `left_out` about models that are
    known to be refused.
    """
    page = link("the run", run_url) or "the run"
    text = f"### hub-tests: running\n\n{_list_names(models)} at {code(sha[:12])}, requested by {code(login)}: {page}."
    told = f"{escape_text(left_out, MAX_PROBLEM_CHARS)}." if left_out else ""
    parts = (text, told, waiting or "The result will appear here.", others.strip())
    return "\n\n".join(part for part in parts if part)


def format_commit_status(status: CommitStatus, run_id: int | None) -> str:
    """Format the first lines of a comment: the commit's status and other runs.

    "" if only the run `run_id` decides it.
    """
    others = format_others(status, run_id)
    if not others:
        return ""
    return f"**This commit: {status.state}** ({escape_text(status.description)})\n\n{others}\n"


def format_others(status: CommitStatus, run_id: int | None) -> str:
    """Format what other runs than `run_id` found at the commit; "" for nothing."""
    lines = [
        f"- ⏳ {_link_result(run.run_id, '')} is still testing {_list_first(run.models) or 'models'}"
        for run in status.under_way
        if run.run_id != run_id
    ]
    for icon, word, results in (("❌", "failed", status.failed), ("⚠️", "no answer", status.neutral)):
        found = [result for result in results if result.run_id != run_id]
        lines += [_format_other(icon, word, result) for result in found[:MAX_NAMES]]
        lines += [f"- {icon} and {len(found) - MAX_NAMES} more"] if len(found) > MAX_NAMES else []
    if refused := [result.model for result in status.refused if result.run_id != run_id]:
        lines.append(f"- ⛔ refused, as known, in other runs: {_list_first(refused)}")
    if passed := [result.model for result in status.passed if result.run_id != run_id]:
        lines.append(f"- ✅ passed in other runs: {_list_first(passed)}")
    if status.missing:
        lines.append(f"- ❓ required, no result yet: {_list_first(status.missing)}")
    if status.problem:
        lines.append(f"- ⚠️ cannot be read: {escape_text(status.problem, MAX_PROBLEM_CHARS)}")
    return "\n".join(["Also at this commit:", "", *lines, ""]) if lines else ""


def format_repeat(command: Command) -> str:
    """Format the line that repeats what failed."""
    return f"To repeat what did not pass, write {code(command.format_line())}.\n"


def _format_other(icon: str, word: str, result: ModelResult) -> str:
    part = "" if result.is_of_registry else f" with {describe_override(result.layers, result.slice)}"
    said = f": {escape_text(result.headline, MAX_HEADLINE_CHARS)}" if result.headline else ""
    return f"- {icon} {code(result.model)}{part} {word} in {_link_result(result.run_id, result.run_url)}{said}"


def _link_result(run_id: int, url: str) -> str:
    return link(f"run {run_id}", url) or f"run {run_id}"


def say_no_runner(jobs: Sequence[WorkflowJob]) -> str:
    """Say that no runner takes these jobs, with their labels and since when."""
    first = min((job.created_at or "" for job in jobs), default="")
    labels = ", ".join(code(label) for label in dict.fromkeys(label for job in jobs for label in job.labels))
    names = _list_names([job.short_name for job in jobs])
    since = f" since {escape_text(first[:16].replace('T', ' '))} UTC" if first else ""
    return (
        f"⏳ **No runner with the labels {labels} has taken {names}{since}.** They are offline, busy, or do not exist; "
        f"the jobs wait for up to a day. To stop, write {code(COMMAND + ' cancel')}."
    )


def link_run(run_id: int, event: CommentEvent, server_url: str) -> str:
    """Format a Markdown link to a workflow run of the event's repository."""
    return f"[run {run_id}]({server_url}/{event.repository}/actions/runs/{run_id})"


def _link_commit(sha: str, pull: PullRequest, server_url: str) -> str:
    return f"[{code(sha[:12])}]({server_url}/{pull.repository}/pull/{pull.number}/commits/{sha})"


def _list_names(names: Sequence[str]) -> str:
    return ", ".join(cell(code(name)) for name in names)


def _list_first(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return _list_names(names[:MAX_NAMES]) + more


def _code_block(line: str) -> str:
    return f"```text\n{line}\n```"
