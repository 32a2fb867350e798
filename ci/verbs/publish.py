"""`hub-tests publish`: write a report to pull request, commit and job summary; of a night, to issue and history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from ci.errors import HubTestsError, InfrastructureError, RequestError
from ci.github import commit_checks, nightly_issue, pulls
from ci.github.actions import write_summary
from ci.github.client import Client
from ci.github.data_branch import append_history, read_nightly_history
from ci.github.pulls import Comment
from ci.github.status_comment import CommentState, LastResult, format_status_comment, read_state
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
    from ci.github.gate_input import PullRequest
    from ci.plan import RunRequest
    from ci.report.results import Results

Where = Literal["results", "night"]
MAX_NAMES = 20


@dataclass(frozen=True)
class Published:
    """One thing that was written, or why it could not be."""

    what: str
    done: str
    problem: str = ""


@dataclass(frozen=True)
class _EarlierComment:
    """The status comment as it was before this report, read once; `problem` says why it could not be read."""

    comment: Comment | None = None
    problem: str = ""

    @property
    def state(self) -> CommentState:
        return read_state(self.comment.body if self.comment else None)


def publish_report(
    report: Path, context: Context, *, where: Where = "results", sha256: str | None = None
) -> tuple[Published, ...]:
    """Write everything that the report's kind of run needs; each thing even if another fails.

    `where` "results" writes comment, check, status and summary; "night" the issue and the history. With `sha256`, the
    report must have the digest that came as a job output: the report itself came as an artifact.
    """
    if not (report / REPORT_JSON).is_file():
        return _publish_missing_report(context)
    if sha256 is not None and report_digest(report) != sha256:
        raise RequestError(f"{report / REPORT_JSON}: not the report that was made, its sha256 differs: nothing written")
    results = read_report(report)
    with Client(context.api) as client:
        if where == "night":
            return _run_steps(
                ("issue", lambda: _update_issue(client, results, context)),
                ("history", lambda: _append_history(client, results, context)),
            )
        return _run_steps(*_result_steps(client, report, results, context))


def _result_steps(
    client: Client, report: Path, results: Results, context: Context
) -> list[tuple[str, Callable[[], str]]]:
    request = results.plan.request
    earlier = _read_earlier_comment(client, request, context)
    tested = [entry.name for entry in results.entries]
    unsettled = earlier.state.find_unsettled(request.sha, tested)
    steps: list[tuple[str, Callable[[], str]]] = [("summary", lambda: _write_summary(report, context))]
    if request.pull_request:
        steps.append(("comment", lambda: _write_comment(client, results, context, earlier)))
    if request.subject_repository == context.repository:
        steps.append(("check", lambda: _create_check(client, results)))
        steps.append(("status", lambda: _set_status(client, results, unsettled)))
    return steps


def _run_steps(*steps: tuple[str, Callable[[], str]]) -> tuple[Published, ...]:
    published = []
    for what, step in steps:
        try:
            published.append(Published(what, step()))
        except HubTestsError as error:
            published.append(Published(what, "", str(error)))
    return tuple(published)


def _read_earlier_comment(client: Client, request: RunRequest, context: Context) -> _EarlierComment:
    if not request.pull_request:
        return _EarlierComment()
    try:
        return _EarlierComment(pulls.find_comment(client, request.pull_request, "status", bot=context.bot_login))
    except HubTestsError as error:  # the step that writes the comment reports it, the other steps still run
        return _EarlierComment(problem=str(error))


def _write_summary(report: Path, context: Context) -> str:
    if context.summary_path is None:
        return "no job summary outside Actions"
    write_summary(context.summary_path, (report / REPORT_MD).read_text(encoding="utf-8"))
    return "written"


def _write_comment(client: Client, results: Results, context: Context, earlier: _EarlierComment) -> str:
    if earlier.problem:
        raise InfrastructureError(earlier.problem)
    request = results.plan.request
    number = request.pull_request or 0
    stale = _format_stale(pulls.get_pull_request(client, number), request, context)
    last = _make_last_result(results)
    last = replace(last, unsettled=earlier.state.find_unsettled(last.sha, last.models))
    state, notes = earlier.state.set_result(last), stale + _format_unsettled(last.unsettled)
    text = notes + render_markdown(results, COMMENT_CHARS - count_characters(format_status_comment(notes, state)))
    return pulls.write_comment(client, number, earlier.comment, format_status_comment(text, state)).html_url


def _format_stale(pull: PullRequest, request: RunRequest, context: Context) -> str:
    """Format the first line of a comment about a commit that is no longer the head."""
    if pull.head_sha == request.sha:
        return ""
    head = link(pull.head_sha[:12], f"{context.server_url}/{context.repository}/commit/{pull.head_sha}")
    return f"> **stale: head is now {head or code(pull.head_sha[:12])}**, this is about {code(request.sha[:12])}\n\n"


def _format_unsettled(unsettled: tuple[str, ...]) -> str:
    if not unsettled:
        return ""
    more = f" and {len(unsettled) - MAX_NAMES} more" if len(unsettled) > MAX_NAMES else ""
    names = ", ".join(map(code, unsettled[:MAX_NAMES])) + more
    return f"> **Not tested again: {names}** did not pass at this commit before\n\n"


def _make_last_result(results: Results) -> LastResult:
    request = results.plan.request
    return LastResult(
        run_id=request.run_id or 0,
        sha=request.sha,
        models=tuple(entry.name for entry in results.entries),
        failed=tuple(entry.name for entry in results.entries if entry.verdict != "passed"),
        layers=request.layers,
    )


def _create_check(client: Client, results: Results) -> str:
    summary = render_markdown(results, commit_checks.MAX_SUMMARY_CHARS)
    check = commit_checks.create_check_run(client, results, title=wording.format_title(results), summary=summary)
    return check.html_url or ""


def _set_status(client: Client, results: Results, unsettled: tuple[str, ...]) -> str:
    """Set the commit's status.

    It is no success while an entry that failed at this commit was not tested again.
    """
    request = results.plan.request
    state = commit_checks.STATES[results.verdict]
    title = wording.format_title(results)
    if state == "success" and unsettled:
        state, title = "failure", f"{title}; not tested again after it failed: {', '.join(unsettled)}"
    commit_checks.set_status(client, request.sha, state, title, request.run_url)
    return state


def _append_history(client: Client, results: Results, context: Context) -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    records = make_history_records(results, now)
    request = results.plan.request
    return append_history(client, context.data_branch, records, f"Night of {now[:10]}: {request.sha[:12]}")


def _update_issue(client: Client, results: Results, context: Context) -> str:
    """Update the nightly issue.

    A second attempt finds tonight in the history already, a first one does not: `results` counts, not the history.
    """
    history = read_nightly_history(client, context.data_branch)
    tonight = make_history_records(results, datetime.now(UTC).isoformat(timespec="seconds"))
    streaks = nightly_issue.find_streaks(history, tonight)
    return nightly_issue.update_issue(client, results, streaks, bot=context.bot_login)


def _publish_missing_report(context: Context) -> tuple[Published, ...]:
    """Say on the pull request that the run broke before it could report."""
    number, sha = context.inputs.pull_request, context.inputs.subject_ref
    if not number:
        raise RequestError("there is no report to publish, and no pull request to tell: look at the run's earlier jobs")
    text = f"## ⚠️ No result\n\nThe run broke before it could report anything: {link('run', context.run_url)}."
    with Client(context.api) as client:

        def write_comment() -> str:
            return pulls.replace_status_text(client, number, text, bot=context.bot_login).html_url

        def set_status() -> str:
            description = "the run broke before it could report"
            commit_checks.set_status(client, sha, "error", description, context.run_url)
            return "error"

        return _run_steps(("comment", write_comment), *((("status", set_status),) if sha else ()))
