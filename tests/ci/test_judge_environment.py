"""What could make the judge run other code is not inherited."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ci.judge_environment import (
    CODE_VARIABLES,
    find_system_program,
    make_git_environment,
    make_suite_environment,
    restart_isolated,
)

ROOT = Path(__file__).parents[2]
HARMLESS = {"PATH": "/usr/bin", "HOME": "/home/x", "LD_LIBRARY_PATH": "/usr/local/cuda", "HF_ENDPOINT": "http://hub"}
CODE = ("PYTHONPATH", "PYTHONHOME", "PYTHONPYCACHEPREFIX", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "LD_PRELOAD", "BASH_ENV")


@pytest.mark.parametrize("name", CODE)
def test_a_variable_that_changes_what_runs_reaches_no_process_of_the_judges(name: str) -> None:
    environ = {**HARMLESS, name: "/evil"}
    assert CODE_VARIABLES.fullmatch(name)
    assert make_suite_environment(environ) == make_git_environment(environ) == HARMLESS


@pytest.mark.parametrize("name", ["GITHUB_TOKEN", "ACTIONS_RUNTIME_TOKEN", "RUNNER_TEMP", "INPUT_TOKEN"])
def test_the_suite_gets_nothing_of_the_runners(name: str) -> None:
    assert make_suite_environment({**HARMLESS, name: "x"}) == HARMLESS


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_EXEC_PATH", "GIT_EXTERNAL_DIFF"])
def test_git_is_not_led_to_another_repository_or_program(name: str) -> None:
    assert make_git_environment({**HARMLESS, name: "/evil", "GIT_SSL_CAINFO": "/ca"}) == {
        **HARMLESS,
        "GIT_SSL_CAINFO": "/ca",
    }


def test_without_such_a_variable_nothing_restarts() -> None:
    restart_isolated(["models"], {**HARMLESS, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"})


def test_a_system_program_is_found_whatever_the_path_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sh").write_text("#!/bin/false\n")
    (tmp_path / "sh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(find_system_program("sh")).parent in (Path("/bin"), Path("/usr/bin"))
    assert find_system_program("no-such-program") == "no-such-program"


def test_the_command_line_restarts_isolated_and_keeps_its_arguments_and_exit_code(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; print('FOREIGN', sys.flags.isolated, file=sys.stderr)\n")
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTEST_ADDOPTS": "--collect-only"}
    command = [sys.executable, "-m", "ci", "models", "no such model"]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such model" in done.stderr
    assert done.stderr.count("FOREIGN") == 1, "the first start, before any line of hub-tests"
