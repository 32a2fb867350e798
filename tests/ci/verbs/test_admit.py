"""`admit`: another commit than the planned one does not run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import RequestError
from ci.github.job_outputs import FetchOutputs
from ci.plan import PlannedEnvironment, RunRequest, make_plan
from ci.verbs.admit import admit_entry, read_head_commit, write_environment
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


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (None, "reference"),
        (PlannedEnvironment("fast_llm"), "fast_llm"),
        (PlannedEnvironment("theirs", "requirements = []\n"), "theirs.toml"),
    ],
)
def test_the_environment_is_the_plans(environment: PlannedEnvironment | None, expected: str, tmp_path: Path) -> None:
    made = replace(make_plan(RunRequest(models=("smollm2",)), samples.MODELS), environment=environment)
    written = write_environment(made, tmp_path)
    assert written == (str(tmp_path / expected) if expected.endswith(".toml") else expected)
    if environment and environment.text:
        assert (tmp_path / expected).read_text() == environment.text
