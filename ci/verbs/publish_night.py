"""What a night leaves behind: the nightly issue, the history, and the pages made from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ci.github import nightly_issue
from ci.github.data_branch import append_history, read_nightly_history
from ci.models import load_models
from ci.plan import leave_out_consumer
from ci.report.dashboard import render_pages
from ci.report.history import make_history_records
from ci.report.result_files import read_result_files
from ci.report.results import Problem, Results
from ci.units import format_now
from ci.verbs.report import make_report

if TYPE_CHECKING:
    from ci.github.client import Client
    from ci.github.context import Context
    from ci.plan import Plan
    from ci.report.history import Baseline

NO_JEKYLL = ".nojekyll"
"""GitHub Pages serves a branch with this file as it is."""


def append_night(client: Client, results: Results, context: Context) -> str:
    """Append the night to the history and render its pages again; return what was done."""
    now = format_now()
    records = make_history_records(results, now)
    request = results.plan.request
    url = f"{context.server_url}/{context.repository}"

    def make_pages(history: Baseline) -> dict[str, str]:
        pages = render_pages(history, load_models().values(), request.subject, made=now, repository_url=url)
        return {**pages, NO_JEKYLL: ""}

    message = f"Night of {now[:10]}: {request.sha[:12]}"
    return append_history(client, context.data_branch, records, message, make_pages)


def update_night_issue(client: Client, results: Results, context: Context, upstream: Path | None) -> str:
    """Update the nightly issue.

    A second attempt finds tonight in the history already, a first one does not: `results` counts, not the history.
    """
    history = read_nightly_history(client, context.data_branch)
    tonight = make_history_records(results, format_now())
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
