"""Samples of what GitHub's API answers."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

from ci.github.commit_results import RESULT_JSON, ModelResult, RunResult, name_artifact
from ci.records import to_json
from tests.e2e.fake_github import LATE, NOW

if TYPE_CHECKING:
    from tests.e2e.fake_github import State


def job(name: str, number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a job of a run as the API gives it: completed and successful, but for `changes`."""
    known = {
        "id": number,
        "run_id": 5,
        "name": name,
        "status": "completed",
        "conclusion": "success",
        "html_url": "https://github.com/x",
        "started_at": NOW,
        "completed_at": "2026-01-02T03:05:05Z",
        "run_attempt": 1,
        "runner_name": "gpu-1",
        "labels": ["self-hosted", "gpu"],
    }
    return known | changes


def report_job(**changes: Any) -> dict[str, Any]:
    """Return the job during which the stand-in's artifacts appear."""
    return job("run / report", 99, **{"started_at": LATE, "completed_at": LATE} | changes)


def zipped(text: str) -> bytes:
    """Return the archive of an artifact with a run's results."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(RESULT_JSON, text)
    return packed.getvalue()


def add_result(state: State, run_id: int, sha: str, layers: int | None = None, **verdicts: Any) -> RunResult:
    """Add a finished run of the service with its artifact: a verdict for each model."""
    started, url = (
        f"2026-01-02T00:00:{run_id % 60:02d}Z",
        f"https://github.com/{state.repository}/actions/runs/{run_id}",
    )
    models = tuple(
        ModelResult(model, verdict, "it is wrong" if verdict == "failed" else "", layers, False, run_id, url, started)
        for model, verdict in verdicts.items()
    )
    made = RunResult(sha, run_id, 1, models)
    known = {"event": "issue_comment", "run_attempt": 1, "path": ".github/workflows/hub-tests.yml"}
    state.runs[run_id] = {"status": "completed", **known}
    state.jobs[run_id] = [report_job()]
    state.add_artifact(run_id, name_artifact(sha), zipped(to_json(made)))
    return made
