"""`hub-tests publish`: write a report to pull request, commit and job summary; of a night, to issue and history.

The commit's status is decided from every run's results at the commit; the comment shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ci.errors import HubTestsError, RequestError
from ci.github import messages, pulls
from ci.github.actions import write_summary
from ci.github.client import Client
from ci.github.commit_status import set_status
from ci.github.commit_view import read_commit
from ci.github.event import SHA
from ci.report.escape import link
from ci.report.report_files import REPORT_JSON, REPORT_MD, read_report
from ci.verbs.publication import Publication, read_publication, set_commit_status
from ci.verbs.publish_comment import write_report_comment
from ci.verbs.publish_night import append_night, update_night_issue
from ci.verbs.report import report_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci.github.context import Context


Where = Literal["results", "night"]


@dataclass(frozen=True)
class Published:
    """One thing that was written, or why it could not be."""

    what: str
    done: str
    problem: str = ""


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
                ("issue", lambda: update_night_issue(client, results, context, upstream)),
                ("history", lambda: append_night(client, results, context)),
            )
        return _publish_results(read_publication(client, report, results, context))


def _publish_results(publication: Publication) -> tuple[Published, ...]:
    """Write the summary, the status and the comment.

    The comment says if the status could not be set.
    """
    summary = _run_steps(("summary", lambda: _write_summary(publication.report, publication.context)))
    status = _run_steps(("status", lambda: set_commit_status(publication))) if publication.view else ()
    problem = "".join(step.problem for step in status)
    number = publication.request.pull_request
    comment = _run_steps(("comment", lambda: write_report_comment(publication, problem))) if number else ()
    return (*summary, *status, *comment)


def _run_steps(*steps: tuple[str, Callable[[], str]]) -> tuple[Published, ...]:
    published = []
    for what, step in steps:
        try:
            published.append(Published(what, step()))
        except HubTestsError as error:
            published.append(Published(what, "", str(error)))
    return tuple(published)


def _write_summary(report: Path, context: Context) -> str:
    if context.summary_path is None:
        return "no job summary outside Actions"
    write_summary(context.summary_path, (report / REPORT_MD).read_text(encoding="utf-8"))
    return "written"


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
