"""`admit`: another commit than the planned one does not run."""

from __future__ import annotations

import os
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
    with pytest.raises(RequestError, match=f"is at {git(subject, 'rev-parse', 'HEAD')}, the plan has {'1' * 40}"):
        admit_entry(
            made,
            FetchOutputs({}, {}),
            "smollm2",
            subject=subject,
            store=tmp_path,
            out=tmp_path / "out",
            environ=os.environ,
        )
    with pytest.raises(RequestError, match="not a git checkout"):
        read_head_commit(tmp_path / "nowhere", os.environ)
    assert not (tmp_path / "out").exists()


def test_neither_a_git_on_the_path_nor_one_of_its_variables_answers_for_the_checkout(tmp_path: Path) -> None:
    for name in ("subject", "planned"):
        git(tmp_path, "init", "--quiet", name)
        git(tmp_path / name, "commit", "--quiet", "--allow-empty", f"--message={name}")
    wanted = git(tmp_path / "planned", "rev-parse", "HEAD")
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho {wanted}\n")
    program.chmod(0o755)
    hostile = {"PATH": f"{program.parent}:{os.environ['PATH']}", "GIT_DIR": str(tmp_path / "planned/.git")}
    assert read_head_commit(tmp_path / "subject", hostile) == git(tmp_path / "subject", "rev-parse", "HEAD") != wanted
