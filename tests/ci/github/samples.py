"""Samples of what GitHub's API answers."""

from __future__ import annotations

from typing import Any

from tests.e2e.fake_github import NOW


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
