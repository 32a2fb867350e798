"""Variables that a run inherits: what an earlier step of a job could have set does not reach the judge."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.attacks.scene import START, Scene, find_failures, hash_tree
from tests.e2e.act import git

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("attacks")]
NOTE = "import os, sys\nopen({marks!r}, 'a').write(f'{name} {{os.getpid()}} {{sys.orig_argv}}\\n')\n"
PROGRAM = '#!/bin/sh\necho "program {name} $$ $*" >> {marks}\nexit 0\n'
LIBRARY = """
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void note(void) {{
    char command[4096] = {{0}};
    FILE *own = fopen("/proc/self/cmdline", "r"), *marks = fopen("{marks}", "a");
    size_t length = own ? fread(command, 1, sizeof command - 1, own) : 0;
    for (size_t at = 0; at < length; at++) if (command[at] == 0 || command[at] == '\\n') command[at] = ' ';
    if (marks) {{ fprintf(marks, "library %d %s\\n", getpid(), command); fclose(marks); }}
}}
"""
PROGRAMS = ("git", "bwrap", "choom", "prlimit", "setpriv", "rm", "python3", "nvidia-smi")
ISOLATED = ("-I", "-c", START)
"""How the workflows start hub-tests: `python -I`."""

BY_MODULE = ("-m", "ci")


def plant(directory: Path, marks: Path) -> dict[str, str]:
    """Lay out code that notes each process that runs it; the variables that lead there."""
    (directory / "bin").mkdir(parents=True)
    marks.write_text("")
    marks.chmod(0o666)
    for name in ("sitecustomize", "evil_plugin"):
        (directory / f"{name}.py").write_text(NOTE.format(marks=str(marks), name=name))
    for name in PROGRAMS:
        (directory / "bin" / name).write_text(PROGRAM.format(name=name, marks=marks))
        (directory / "bin" / name).chmod(0o755)
    (directory / "library.c").write_text(LIBRARY.format(marks=marks))
    library = directory / "library.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(directory / "library.c")], check=True)
    (directory / "profile").write_text(f"echo profile $$ >> {marks}\n")
    return {
        "PYTHONPATH": str(directory),
        "PYTEST_ADDOPTS": "-p evil_plugin --collect-only",
        "PYTEST_PLUGINS": "evil_plugin",
        "LD_PRELOAD": str(library),
        "BASH_ENV": str(directory / "profile"),
        "ENV": str(directory / "profile"),
        "GIT_DIR": str(directory),
        "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
    }


@pytest.mark.parametrize("start", [ISOLATED, BY_MODULE], ids=["as the workflows start it", "as a module"])
def test_what_a_step_left_in_the_environment_does_not_reach_the_judge(
    start: tuple[str, ...], scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = tmp_path / "marks"
    hostile = plant(tmp_path / "evil", marks)
    checkout = scene.write_subject()
    git(checkout, "init", "--quiet")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message=broken")
    before = hash_tree(*scene.protected)
    if start is BY_MODULE:
        hostile["PYTHONPATH"] += f":{scene.judge}"
    monkeypatch.setattr(scene, "start", start)
    done, results = scene.run(checkout, **hostile)
    assert done.returncode == 1, done.stdout + done.stderr
    assert find_failures(results)["test_forward_equivalence"] == "numeric_mismatch"
    commits = {case["evidence"].get("subject_commit") for case in results["entries"][0]["cases"] if case["evidence"]}
    assert git(checkout, "rev-parse", "HEAD") in str(commits)
    assert results["entries"][0]["cases"][0]["evidence"]["isolation"].startswith("bubblewrap")
    noted = marks.read_text().splitlines()
    pids = {line.split()[1] for line in noted}
    assert len(pids) == 1, noted
    kinds = ["library"] if start is ISOLATED else ["library", "sitecustomize"]
    assert [line.split()[0] for line in noted] == kinds, "the first start alone, before any line of hub-tests"
    assert hash_tree(*scene.protected) == before


def test_the_same_variables_do_run_code_where_nothing_is_cleaned(tmp_path: Path) -> None:
    """The control: each of them works."""
    marks = tmp_path / "marks"
    hostile = plant(tmp_path / "evil", marks)
    empty = tmp_path / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-m", "pytest"], cwd=empty, env=hostile, capture_output=True, check=False)
    subprocess.run(["bash", "-c", "git status"], env=hostile, capture_output=True, check=True)
    kinds = {line.split()[0] for line in marks.read_text().splitlines()}
    assert kinds == {"library", "sitecustomize", "evil_plugin", "profile", "program"}


class InstalledScene(Scene):
    """The same where hub-tests is installed in an environment inside of the subject's checkout."""

    @property
    def judge(self) -> Path:
        """The installed package."""
        return self.root / "project" / ".venv" / "lib"


def test_pytest_settings_around_an_installation_do_not_reach_the_judge(scene: Scene, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    installed = InstalledScene(scene.root, scene.endpoint, scene.pins, scene.runs)
    project = scene.root / "project"
    shutil.copytree(scene.judge / "ci", installed.judge / "ci")
    shutil.copytree(scene.judge / "tests" / "integration", installed.judge / "ci" / "_suite")
    (project / "pytest.ini").write_text("[pytest]\naddopts = -p evil_plugin\npythonpath = .\n")
    for file in (project / "evil_plugin.py", project / "conftest.py", installed.judge / "conftest.py"):
        file.write_text(NOTE.format(marks=str(marks), name=file.stem))
    checkout = installed.write_subject()
    scene.runs = installed.runs
    try:
        done, results = installed.run(checkout)
    finally:
        shutil.rmtree(project)
    assert done.returncode == 1, done.stdout + done.stderr
    assert find_failures(results)["test_forward_equivalence"] == "numeric_mismatch"
    assert not marks.exists(), marks.read_text()
