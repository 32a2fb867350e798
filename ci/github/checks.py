"""The commit's side of a report: one status, and one check run with up to 50 annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ci.report.escape import clean, clip, one_line
from ci.report.limits import ANNOTATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.github.client import Client
    from ci.report.results import Results, Verdict

NAME = "hub-tests"
DESCRIPTION_CHARS = 140
TITLE_CHARS = 255
OUTPUT_CHARS = 65_535
MESSAGE_CHARS = 4_000
PLACE = "ci/models.toml"
"""Where an annotation stands: a failure concerns a model, and the registry is the file that names it."""

StatusState = Literal["pending", "success", "failure", "error"]
STATES: dict[Verdict, StatusState] = {"passed": "success", "failed": "failure", "neutral": "error"}
CONCLUSIONS: dict[Verdict, str] = {"passed": "success", "failed": "failure", "neutral": "neutral"}


@dataclass(frozen=True)
class Written:
    """What GitHub made of it."""

    id: int
    html_url: str | None = None
    url: str = ""


def set_status(client: Client, sha: str, state: StatusState, description: str, target_url: str) -> None:
    """The status `hub-tests` on `sha`; a later one replaces an earlier one."""
    body = {"state": state, "context": NAME, "description": one_line(description, DESCRIPTION_CHARS)}
    client.write(Written, "POST", f"/statuses/{sha}", body | ({"target_url": target_url} if target_url else {}))


def write_check(client: Client, results: Results, *, title: str, summary: str) -> Written:
    """A completed check run on the request's commit, its failures as annotations, the first 50 of them."""
    request = results.plan.request
    body = {
        "name": NAME,
        "head_sha": request.sha,
        "status": "completed",
        "conclusion": CONCLUSIONS[results.verdict],
        "output": {
            "title": one_line(title, TITLE_CHARS),
            "summary": summary,
            "annotations": list(annotations_of(results)),
        },
    }
    if request.run_url:
        body["details_url"] = request.run_url
    return client.write(Written, "POST", "/check-runs", body)


def annotations_of(results: Results) -> Sequence[dict[str, object]]:
    """One annotation a failing test; infrastructure warns, everything else fails."""
    found: list[dict[str, object]] = [
        {
            "path": PLACE,
            "start_line": 1,
            "end_line": 1,
            "annotation_level": "warning" if case.infrastructure else "failure",
            "title": one_line(f"{entry.name}: {case.name}", TITLE_CHARS),
            "message": clip(clean(case.headline or case.detail), MESSAGE_CHARS) or "failed without a message",
        }
        for entry in results.entries
        for case in entry.cases
        if case.outcome in ("failed", "missing")
    ]
    return found[:ANNOTATIONS]
