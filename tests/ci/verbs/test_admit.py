"""`admit`: another commit than the planned one does not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.errors import RequestError
from ci.github.job_outputs import FetchOutputs
from ci.plan import RunRequest, make_plan
from ci.verbs.admit import admit_entry, read_head_commit
from tests.ci.report import samples
from tests.e2e.act import git

if TYPE_CHECKING:
    from pathlib import Path


def test_only_the_planned_commit_is_admitted(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "subject")
    subject = tmp_path / "subject"
    git(subject, "commit", "--quiet", "--allow-empty", "--message=x")
    made = make_plan(RunRequest(models=("smollm2",), sha="1" * 40), samples.MODELS)
    with pytest.raises(RequestError, match=f"is at {read_head_commit(subject)}, the plan has {'1' * 40}"):
        admit_entry(made, FetchOutputs({}, {}), "smollm2", subject=subject, store=tmp_path, out=tmp_path / "out")
    with pytest.raises(RequestError, match="not a git checkout"):
        read_head_commit(tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()
