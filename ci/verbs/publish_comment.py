"""The comment on a pull request: the report, the commit's status, and the command that repeats what did not pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from ci.github import messages, pulls
from ci.github.command import Command
from ci.github.status_comment import LastResult, format_status_comment, read_text
from ci.report.escape import code, escape_text, link
from ci.report.limits import COMMENT_CHARS
from ci.report.markdown import render_markdown
from ci.report.truncate_markdown import count_characters

if TYPE_CHECKING:
    from ci.github.context import Context
    from ci.github.gate_input import PullRequest
    from ci.github.pulls import Comment
    from ci.plan import RunRequest
    from ci.verbs.publication import Publication


def write_report_comment(publication: Publication, status_problem: str) -> str:
    """Write the report into the pull request's comment, unless the comment is about a newer commit; return its URL."""
    if publication.comment_problem:
        raise InfrastructureError(publication.comment_problem)
    client, request = publication.client, publication.request
    number = request.pull_request or 0
    pull = pulls.get_pull_request(client, number)
    if pull.head_sha != request.sha and publication.comment and publication.state.is_about(pull.head_sha):
        return _keep_comment(publication, number, publication.comment)
    last = _make_last_result(publication)
    state = publication.state.set_result(last)
    notes = _format_stale(pull, request, publication.context) + _format_notes(publication, status_problem)
    end = f"\n\n{messages.format_repeat(_repeat_command(last, pull))}" if last.failed or last.unsettled else ""
    room = COMMENT_CHARS - count_characters(format_status_comment(notes + end, state)) - 2
    body = format_status_comment(notes + render_markdown(publication.results, room).rstrip() + end, state)
    return pulls.write_comment(client, number, publication.comment, body).html_url


def _keep_comment(publication: Publication, number: int, comment: Comment) -> str:
    """Keep what the comment says about the head: this run was about an older commit."""
    state = publication.state.drop_run(publication.own.run_id)
    body = format_status_comment(read_text(comment.body), state)
    return pulls.write_comment(publication.client, number, comment, body).html_url


def _format_stale(pull: PullRequest, request: RunRequest, context: Context) -> str:
    """Format the first line of a comment about a commit that is no longer the head."""
    if pull.head_sha == request.sha:
        return ""
    head = link(pull.head_sha[:12], f"{context.server_url}/{context.repository}/commit/{pull.head_sha}")
    return f"> **stale: head is now {head or code(pull.head_sha[:12])}**, this is about {code(request.sha[:12])}\n\n"


def _format_notes(publication: Publication, status_problem: str) -> str:
    """Format what stands above the report: the commit's status, and problems."""
    status = publication.status
    notes = messages.format_commit_status(status, publication.request.run_id) if status else ""
    if status_problem:
        notes += f"> ⚠️ The commit's status could not be set: {escape_text(status_problem)}\n"
    for ignored in publication.view.results.ignored if publication.view else ():
        notes += f"> ⚠️ {escape_text(ignored)}\n"
    return f"{notes}\n" if notes else ""


def _make_last_result(publication: Publication) -> LastResult:
    request, entries = publication.request, publication.results.entries
    tested = {entry.name for entry in entries}
    status = publication.status
    if status and not status.problem:
        others = tuple(result.model for result in (*status.failed, *status.neutral) if result.model not in tested)
    else:
        others = publication.state.find_unsettled(request.sha, tested)
    return LastResult(
        run_id=request.run_id or 0,
        sha=request.sha,
        models=tuple(entry.name for entry in entries),
        failed=tuple(entry.name for entry in entries if entry.verdict != "passed" and not entry.refused_as_known),
        layers=request.layers,
        slice=request.slice,
        unsettled=tuple(dict.fromkeys(others)),
        deep=request.deep,
        consumer=request.consumer,
    )


def _repeat_command(last: LastResult, pull: PullRequest) -> Command:
    """Return the command that repeats what did not pass; a fork needs the commit."""
    return Command(failed=True, sha=last.sha if pull.is_fork else None)
