"""A report on a commit: one status, and one check run with at most 50 annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ci.report.escape import clean, clip, one_line
from ci.report.limits import ANNOTATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.github.client import Client
    from ci.report.results import Results, Verdict

CHECK_NAME = "hub-tests"
MAX_DESCRIPTION_CHARS = 140
MAX_TITLE_CHARS = 255
MAX_SUMMARY_CHARS = 65_535
MAX_MESSAGE_CHARS = 4_000
ANNOTATED_FILE = "ci/models.toml"
"""The file of every annotation: a failure concerns a model, and the registry is the file that names it."""

StatusState = Literal["pending", "success", "failure", "error"]
STATES: dict[Verdict, StatusState] = {"passed": "success", "failed": "failure", "neutral": "error"}
CONCLUSIONS: dict[Verdict, str] = {"passed": "success", "failed": "failure", "neutral": "neutral"}


@dataclass(frozen=True)
class CreatedCheck:
    """A status or check run as GitHub created it."""

    id: int
    html_url: str | None = None
    url: str = ""


def set_status(client: Client, sha: str, state: StatusState, description: str, target_url: str) -> None:
    """Set the status `hub-tests` on `sha`; it replaces an earlier one."""
    body = {"state": state, "context": CHECK_NAME, "description": one_line(description, MAX_DESCRIPTION_CHARS)}
    client.write(CreatedCheck, "POST", f"/statuses/{sha}", body | ({"target_url": target_url} if target_url else {}))


def create_check_run(client: Client, results: Results, *, title: str, summary: str) -> CreatedCheck:
    """Create a completed check run on the request's commit, with the first 50 failures as annotations."""
    request = results.plan.request
    body = {
        "name": CHECK_NAME,
        "head_sha": request.sha,
        "status": "completed",
        "conclusion": CONCLUSIONS[results.verdict],
        "output": {
            "title": one_line(title, MAX_TITLE_CHARS),
            "summary": summary,
            "annotations": list(make_annotations(results)),
        },
    }
    if request.run_url:
        body["details_url"] = request.run_url
    return client.write(CreatedCheck, "POST", "/check-runs", body)


def make_annotations(results: Results) -> Sequence[dict[str, object]]:
    """Make one annotation for each failed test: a warning for infrastructure, a failure for the rest."""
    annotations: list[dict[str, object]] = [
        {
            "path": ANNOTATED_FILE,
            "start_line": 1,
            "end_line": 1,
            "annotation_level": "warning" if case.infrastructure else "failure",
            "title": one_line(f"{entry.name}: {case.name}", MAX_TITLE_CHARS),
            "message": clip(clean(case.headline or case.detail), MAX_MESSAGE_CHARS) or "failed without a message",
        }
        for entry in results.entries
        for case in entry.cases
        if case.outcome in ("failed", "missing")
    ]
    return annotations[:ANNOTATIONS]
