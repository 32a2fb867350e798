"""`hub-tests publish`: a finished report → pull request, commit, job summary; and after a night, issue and history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from ci.errors import HubTestsError, RequestError
from ci.github import checks, nightly, pulls
from ci.github.actions import write_summary
from ci.github.board import LastResult, read_state, write_board
from ci.github.branch import append_history, read_history_of
from ci.github.client import Client
from ci.report import wording
from ci.report.escape import code, link
from ci.report.history import make_history_records
from ci.report.limits import COMMENT_CHARS
from ci.report.markdown import render_markdown
from ci.report.report_files import REPORT_JSON, REPORT_MD, read_report
from ci.report.truncate_markdown import count_characters
from ci.verbs.report import report_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci.github.context import Context
    from ci.github.facts import PullRequest
    from ci.plan import RunRequest
    from ci.report.results import Results

Where = Literal["results", "night"]
_NAMES = 20


@dataclass(frozen=True)
class Published:
    """One thing written, or why it could not be."""

    what: str
    done: str
    problem: str = ""


def publish(
    report: Path, context: Context, *, where: Where = "results", sha256: str | None = None
) -> tuple[Published, ...]:
    """Everything that the report's kind of run asks for; one that cannot be written does not keep back the others.

    `where` "results" writes comment, check, status and summary; "night" the issue and the history. With `sha256` a
    report that came as an artifact is held against the digest that came as an output.
    """
    if not (report / REPORT_JSON).is_file():
        return _nothing_to_report(context)
    if sha256 is not None and report_digest(report) != sha256:
        raise RequestError(f"{report / REPORT_JSON}: not the report that was made, its sha256 differs: nothing written")
    results = read_report(report)
    with Client(context.api) as client:
        if where == "night":
            return _each(
                ("issue", lambda: _issue(client, results, context)),
                ("history", lambda: _history(client, results, context)),
            )
        unsettled = _unsettled(client, results, context)
        steps: list[tuple[str, Callable[[], str]]] = [("summary", lambda: _summary(report, context))]
        if results.plan.request.pull_request:
            steps.append(("comment", lambda: _comment(client, results, context)))
        if results.plan.request.subject_repository == context.repository:
            steps.append(("check", lambda: _check(client, results)))
            steps.append(("status", lambda: _status(client, results, unsettled)))
        return _each(*steps)


def _each(*steps: tuple[str, Callable[[], str]]) -> tuple[Published, ...]:
    done = []
    for what, step in steps:
        try:
            done.append(Published(what, step()))
        except HubTestsError as error:
            done.append(Published(what, "", str(error)))
    return tuple(done)


def _summary(report: Path, context: Context) -> str:
    if context.summary is None:
        return "no job summary outside Actions"
    write_summary(context.summary, (report / REPORT_MD).read_text(encoding="utf-8"))
    return "written"


def _comment(client: Client, results: Results, context: Context) -> str:
    request = results.plan.request
    number = request.pull_request or 0
    stale = _stale(pulls.pull_request(client, number), request, context)
    found = pulls.find_comment(client, number, "board", bot=context.bot)
    had = read_state(found.body if found else None)
    last = _last(results)
    last = replace(last, unsettled=had.unsettled(last.sha, last.models))
    state, first = had.finished(last), stale + _not_tested_again(last.unsettled)
    text = first + render_markdown(results, COMMENT_CHARS - count_characters(write_board(first, state)))
    return pulls.keep_comment(client, number, found, write_board(text, state)).html_url


def _stale(pull: PullRequest, request: RunRequest, context: Context) -> str:
    """The first line of a comment about a commit that is no longer the head."""
    if pull.head_sha == request.sha:
        return ""
    head = link(pull.head_sha[:12], f"{context.server_url}/{context.repository}/commit/{pull.head_sha}")
    return f"> **stale: head is now {head or code(pull.head_sha[:12])}**, this is about {code(request.sha[:12])}\n\n"


def _unsettled(client: Client, results: Results, context: Context) -> tuple[str, ...]:
    """What did not pass at this commit in an earlier run, and was not tested now: this run says nothing about it."""
    request = results.plan.request
    if not request.pull_request:
        return ()
    try:
        found = pulls.find_comment(client, request.pull_request, "board", bot=context.bot)
    except HubTestsError:  # the comment, which needs the same, will say what is wrong
        return ()
    state = read_state(found.body if found else None)
    return state.unsettled(request.sha, [entry.name for entry in results.entries])


def _not_tested_again(unsettled: tuple[str, ...]) -> str:
    names = ", ".join(map(code, unsettled[:_NAMES])) + (
        f" and {len(unsettled) - _NAMES} more" if unsettled[_NAMES:] else ""
    )
    return f"> **Not tested again: {names}** did not pass at this commit before\n\n" if unsettled else ""


def _last(results: Results) -> LastResult:
    request = results.plan.request
    return LastResult(
        run_id=request.run_id or 0,
        sha=request.sha,
        models=tuple(entry.name for entry in results.entries),
        failed=tuple(entry.name for entry in results.entries if entry.verdict != "passed"),
        layers=request.layers,
    )


def _check(client: Client, results: Results) -> str:
    summary = render_markdown(results, checks.OUTPUT_CHARS)
    return checks.write_check(client, results, title=wording.format_title(results), summary=summary).html_url or ""


def _status(client: Client, results: Results, unsettled: tuple[str, ...]) -> str:
    """The run's verdict on the commit; not green while something that failed there before was not tested again."""
    request = results.plan.request
    state = checks.STATES[results.verdict]
    title = wording.format_title(results)
    if state == "success" and unsettled:
        state, title = "failure", f"{title}; not tested again after it failed: {', '.join(unsettled)}"
    checks.set_status(client, request.sha, state, title, request.run_url)
    return state


def _history(client: Client, results: Results, context: Context) -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    records = make_history_records(results, now)
    request = results.plan.request
    return append_history(client, context.data_branch, records, f"Night of {now[:10]}: {request.sha[:12]}")


def _issue(client: Client, results: Results, context: Context) -> str:
    """The nightly issue; tonight is in `results`, whether the history has it already (a second attempt) or not."""
    history = read_history_of(client, context.data_branch)
    tonight = make_history_records(results, datetime.now(UTC).isoformat(timespec="seconds"))
    return nightly.keep_issue(client, results, nightly.streaks(history, tonight), bot=context.bot)


def _nothing_to_report(context: Context) -> tuple[Published, ...]:
    """The run broke before it could report: the pull request that waits for it hears so."""
    number, sha = context.inputs.pull_request, context.inputs.subject_ref
    if not number:
        raise RequestError("there is no report to publish, and no pull request to tell: look at the run's earlier jobs")
    text = f"## ⚠️ No result\n\nThe run broke before it could report anything: {link('run', context.run_url)}."
    with Client(context.api) as client:

        def tell() -> str:
            found = pulls.find_comment(client, number, "board", bot=context.bot)
            state = read_state(found.body if found else None)
            return pulls.keep_comment(client, number, found, write_board(text, state)).html_url

        def mark() -> str:
            checks.set_status(client, sha, "error", "the run broke before it could report", context.run_url)
            return "error"

        return _each(("comment", tell), *((("status", mark),) if sha else ()))
