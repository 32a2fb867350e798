"""What is published of one run: its report, the status comment before it, and the commit with all its runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import HubTestsError
from ci.github import pulls
from ci.github.client import Client
from ci.github.commit_results import RunResult, make_run_result
from ci.github.commit_status import CommitStatus, set_status
from ci.github.commit_view import CommitView, read_commit
from ci.github.context import Context
from ci.github.pulls import Comment
from ci.github.status_comment import CommentState, read_state
from ci.report.results import Results
from ci.units import format_now
from ci.verbs.report import read_run_result

if TYPE_CHECKING:
    from ci.plan import Plan, RunRequest

MAX_LOOKS = 5
"""How often the commit's runs are read again after the status was set."""


@dataclass(frozen=True)
class Publication:
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
        """What the run was asked for."""
        return self.results.plan.request

    @property
    def state(self) -> CommentState:
        """What the comment remembers of earlier runs."""
        return read_state(self.comment.body if self.comment else None)

    @property
    def status(self) -> CommitStatus | None:
        """The commit's status as its runs decide it; None for a commit of another repository."""
        return decide_by_plan(self.view, self.results.plan) if self.view else None


def decide_by_plan(view: CommitView, plan: Plan) -> CommitStatus:
    """Decide the commit's status by the models that a plan requires or leaves out."""
    return view.decide(plan.required, [one.name for one in plan.left_out])


def read_publication(client: Client, report: Path, results: Results, context: Context) -> Publication:
    """Read the comment of the pull request and the commit's runs; an unreadable comment is kept as a problem."""
    own = read_run_result(report) or make_run_result(results, context.run_attempt, format_now())
    publication = Publication(report, results, context, client, own)
    number = publication.request.pull_request
    if number:
        try:
            comment = pulls.find_comment(client, number, "status", bot=context.bot_login)
            publication = replace(publication, comment=comment)
        except HubTestsError as error:  # the step that writes the comment reports it, the other steps still run
            publication = replace(publication, comment_problem=str(error))
    if publication.request.subject_repository != context.repository:
        return publication
    return replace(publication, view=read_view(publication))


def read_view(publication: Publication) -> CommitView:
    """Read the commit's runs again."""
    return read_commit(
        publication.client,
        publication.request.sha,
        run_id=publication.request.run_id,
        bot=publication.context.bot_login,
        own=publication.own,
        started=publication.state.runs,
    )


def set_commit_status(publication: Publication) -> str:
    """Set the commit's status, and look again: another run may have ended meanwhile."""
    view, written = publication.view or read_view(publication), None
    for _ in range(MAX_LOOKS):
        status = decide_by_plan(view, publication.results.plan)
        if status == written:
            break
        request = publication.request
        set_status(publication.client, request.sha, status.state, status.description, request.run_url)
        written, view = status, read_view(publication)
    return written.state if written else ""
