"""`hub-tests publish`: write a report to pull request, commit and job summary; of a night, to issue and history.

The commit's status is decided from every run's results at the commit; the comment shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from ci.errors import HubTestsError, InfrastructureError, RequestError
from ci.github import messages, nightly_issue, pulls
from ci.github.actions import write_summary
from ci.github.client import Client
from ci.github.command import Command
from ci.github.commit_results import RunResult, make_run_result
from ci.github.commit_status import CommitStatus, set_status
from ci.github.commit_view import CommitView, read_commit
from ci.github.context import Context
from ci.github.data_branch import append_history, read_nightly_history
from ci.github.event import SHA
from ci.github.pulls import Comment
from ci.github.status_comment import CommentState, LastResult, format_status_comment, read_state, read_text
from ci.models import load_models
from ci.plan import leave_out_consumer
from ci.report.dashboard import render_pages
from ci.report.escape import code, escape_text, link
from ci.report.history import make_history_records
from ci.report.limits import COMMENT_CHARS
from ci.report.markdown import render_markdown
from ci.report.report_files import REPORT_JSON, REPORT_MD, read_report
from ci.report.result_files import read_result_files
from ci.report.results import Problem, Results
from ci.report.truncate_markdown import count_characters
from ci.verbs.report import make_report, read_run_result, report_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.github.gate_input import PullRequest
    from ci.plan import Plan, RunRequest
    from ci.report.history import Baseline

Where = Literal["results", "night"]
NO_JEKYLL = ".nojekyll"
"""GitHub Pages serves a branch with this file as it is."""
MAX_LOOKS = 5
"""How often the commit's runs are read again after the status was set."""


@dataclass(frozen=True)
class Published:
    """One thing that was written, or why it could not be."""

    what: str
    done: str
    problem: str = ""


@dataclass(frozen=True)
class _Publication:
    """What is published: the report, the status comment before it, and the commit with all its runs.

    `comment_problem` says why the comment could not be read. `view` is None for a commit of another repository.
    """

    report: Path
    results: Results
    context: Context
    client: Client
    own: RunResult
    comment: Comment | None = None
    comment_problem: str = ""
    view: CommitView | None = None

    @property
    def request(self) -> RunRequest:
        return self.results.plan.request

    @property
    def state(self) -> CommentState:
        return read_state(self.comment.body if self.comment else None)

    @property
    def status(self) -> CommitStatus | None:
        return decide_by_plan(self.view, self.results.plan) if self.view else None


def decide_by_plan(view: CommitView, plan: Plan) -> CommitStatus:
    """Decide the commit's status with the models that a plan requires, and those that it leaves out."""
    return view.decide(plan.required, [one.name for one in plan.left_out])


def publish_report(
    report: Path,
    context: Context,
    *,
    where: Where = "results",
    sha256: str | None = None,
    upstream: Path | None = None,
) -> tuple[Published, ...]:
    """Write everything that the report's kind of run needs; each thing even if another fails.

    `where` "results" writes status, comment and summary; "night" the issue and the history. With `sha256`, the
    report must have the digest that came as a job output: the report itself came as an artifact.
    `upstream` is a folder of results with the newest versions, which only the issue tells of.
    """
    if not (report / REPORT_JSON).is_file():
        return _publish_missing_report(context)
    if sha256 is not None and report_digest(report) != sha256:
        raise RequestError(f"{report / REPORT_JSON}: not the report that was made, its sha256 differs: nothing written")
    results = read_report(report)
    with Client(context.api) as client:
        if where == "night":
            return _run_steps(
                ("issue", lambda: _update_issue(client, results, context, upstream)),
                ("history", lambda: _append_history(client, results, context)),
            )
        return _publish_results(_read_publication(client, report, results, context))


def _publish_results(publication: _Publication) -> tuple[Published, ...]:
    """Write the summary, the status and the comment.

    The comment says if the status could not be set.
    """
    summary = _run_steps(("summary", lambda: _write_summary(publication.report, publication.context)))
    status = _run_steps(("status", lambda: _set_status(publication))) if publication.view else ()
    problem = "".join(step.problem for step in status)
    number = publication.request.pull_request
    comment = _run_steps(("comment", lambda: _write_comment(publication, problem))) if number else ()
    return (*summary, *status, *comment)


def _run_steps(*steps: tuple[str, Callable[[], str]]) -> tuple[Published, ...]:
    published = []
    for what, step in steps:
        try:
            published.append(Published(what, step()))
        except HubTestsError as error:
            published.append(Published(what, "", str(error)))
    return tuple(published)


def _read_publication(client: Client, report: Path, results: Results, context: Context) -> _Publication:
    own = read_run_result(report) or make_run_result(results, context.run_attempt, _now())
    publication = _Publication(report, results, context, client, own)
    number = publication.request.pull_request
    if number:
        try:
            comment = pulls.find_comment(client, number, "status", bot=context.bot_login)
            publication = replace(publication, comment=comment)
        except HubTestsError as error:  # the step that writes the comment reports it, the other steps still run
            publication = replace(publication, comment_problem=str(error))
    if publication.request.subject_repository != context.repository:
        return publication
    return replace(publication, view=_read_view(publication))


def _read_view(publication: _Publication) -> CommitView:
    return read_commit(
        publication.client,
        publication.request.sha,
        run_id=publication.request.run_id,
        bot=publication.context.bot_login,
        own=publication.own,
        started=publication.state.runs,
    )


def _write_summary(report: Path, context: Context) -> str:
    if context.summary_path is None:
        return "no job summary outside Actions"
    write_summary(context.summary_path, (report / REPORT_MD).read_text(encoding="utf-8"))
    return "written"


def _set_status(publication: _Publication) -> str:
    """Set the commit's status, and look again: another run may have ended meanwhile."""
    view, written = publication.view or _read_view(publication), None
    for _ in range(MAX_LOOKS):
        status = decide_by_plan(view, publication.results.plan)
        if status == written:
            break
        request = publication.request
        set_status(publication.client, request.sha, status.state, status.description, request.run_url)
        written, view = status, _read_view(publication)
    return written.state if written else ""


def _write_comment(publication: _Publication, status_problem: str) -> str:
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


def _keep_comment(publication: _Publication, number: int, comment: Comment) -> str:
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


def _format_notes(publication: _Publication, status_problem: str) -> str:
    """Format what stands above the report: the commit's status, and problems."""
    status = publication.status
    notes = messages.format_commit_status(status, publication.request.run_id) if status else ""
    if status_problem:
        notes += f"> ⚠️ The commit's status could not be set: {escape_text(status_problem)}\n"
    for ignored in publication.view.results.ignored if publication.view else ():
        notes += f"> ⚠️ {escape_text(ignored)}\n"
    return f"{notes}\n" if notes else ""


def _make_last_result(publication: _Publication) -> LastResult:
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _append_history(client: Client, results: Results, context: Context) -> str:
    now = _now()
    records = make_history_records(results, now)
    request = results.plan.request
    url = f"{context.server_url}/{context.repository}"

    def make_pages(history: Baseline) -> dict[str, str]:
        pages = render_pages(history, load_models().values(), request.subject, made=now, repository_url=url)
        return {**pages, NO_JEKYLL: ""}

    message = f"Night of {now[:10]}: {request.sha[:12]}"
    return append_history(client, context.data_branch, records, message, make_pages)


def _update_issue(client: Client, results: Results, context: Context, upstream: Path | None) -> str:
    """Update the nightly issue.

    A second attempt finds tonight in the history already, a first one does not: `results` counts, not the history.
    """
    history = read_nightly_history(client, context.data_branch)
    tonight = make_history_records(results, _now())
    streaks = nightly_issue.find_streaks(history, tonight)
    newest = judge_upstream(results.plan, upstream) if upstream else None
    pages = nightly_issue.format_pages(context.server_url, context.repository, context.data_branch)
    return nightly_issue.update_issue(client, results, streaks, bot=context.bot_login, upstream=newest, pages=pages)


def judge_upstream(plan: Plan, folder: Path) -> Results:
    """Judge the results with the newest versions; an entry without any gave no answer.

    No engine serves them: its environment is its own, and does not change with the subject's.
    """
    plan = leave_out_consumer(plan)
    with TemporaryDirectory(prefix="hub-tests-upstream.") as scratch:
        results = folder if folder.is_dir() else Path(scratch, "none")
        results.mkdir(exist_ok=True)
        files = read_result_files(results)
        answered = files if isinstance(files, Mapping) else ()
        silent = Problem("environment", "its job with the newest versions left no result: see its log")
        problems = {entry.name: silent for entry in plan.entries if entry.name not in answered}
        return make_report(plan, results, Path(scratch, "report"), problems=problems)


def _publish_missing_report(context: Context) -> tuple[Published, ...]:
    """Say on the pull request and the commit that the run broke before it could report.

    Only what was announced is taken back: a request that the plan refuses changes no commit's status.
    """
    number, sha = context.inputs.pull_request, context.planned_sha
    if context.event_name == "issue_comment":
        sha = sha or context.inputs.subject_ref
    if not SHA.fullmatch(sha):
        raise RequestError("there is no report to publish, and no run was announced: look at the run's earlier jobs")
    text = f"## ⚠️ No result\n\nThe run broke before it could report anything: {link('run', context.run_url)}."
    with Client(context.api) as client:

        def write_comment() -> str:
            view = read_commit(client, sha, run_id=context.run_id, bot=context.bot_login)
            others = messages.format_others(view.decide(()), context.run_id)
            whole = f"{text}\n\n{others}".strip()
            run_id = context.run_id or 0
            return pulls.replace_status_text(client, number, whole, run_id=run_id, bot=context.bot_login).html_url

        def set_error() -> str:
            description = "the run broke before it could report"
            set_status(client, sha, "error", description, context.run_url)
            return "error"

        return _run_steps(("status", set_error), *((("comment", write_comment),) if number else ()))
