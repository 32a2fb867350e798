"""A context of a step in Actions, against the stand-in for GitHub."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.github.context import Context, WorkflowInputs
from tests.ci.github.conftest import api, contract, github, state

if TYPE_CHECKING:
    from pathlib import Path

    from ci.github.api import ApiSettings

__all__ = ["api", "contract", "github", "state"]


@pytest.fixture
def context(api: ApiSettings, tmp_path: Path) -> Context:
    """Run 777, with files for outputs and summary."""
    return Context(
        api=replace(api, max_retries=0),
        run_id=777,
        event_name="issue_comment",
        actor="alice",
        output_path=tmp_path / "output",
        summary_path=tmp_path / "summary",
        inputs=WorkflowInputs(subject="reference"),
        poll_interval=0.01,
    )
