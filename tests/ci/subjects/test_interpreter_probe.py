"""An interpreter that a sandbox cannot start is the machine's fault; what a program prints proves nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ci.errors import InfrastructureError
from ci.subjects.interpreter_paths import list_interpreter_directories
from ci.subjects.interpreter_probe import check_interpreter_starts
from ci.subjects.open_subject import open_subject
from ci.subjects.sandbox import Isolation, SandboxPolicy, detect_isolation, sandbox_command

ISOLATION = detect_isolation()
live = pytest.mark.skipif(not ISOLATION.applied, reason=f"no sandbox here: {ISOLATION.description}")
SAID = ["setpriv: failed to execute /x/python: No such file or directory", "bwrap: execvp /x/python: No such file"]


@live
@pytest.mark.parametrize("said", SAID)
def test_one_that_cannot_be_started_is_infrastructure(said: str, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"python: does not start in the sandbox: .*No such file"):
        check_interpreter_starts(tmp_path / "bin/python", ISOLATION, said)


@live
@pytest.mark.parametrize("said", SAID)
def test_a_program_that_only_says_so_gains_nothing(said: str) -> None:
    check_interpreter_starts(Path(sys.executable), ISOLATION, said)


def test_any_other_end_is_the_programs_own(tmp_path: Path) -> None:
    check_interpreter_starts(tmp_path / "bin/python", ISOLATION, "ValueError: wrong")
    check_interpreter_starts(tmp_path / "bin/python", Isolation(None, "switched off"), SAID[0])


@live
def test_one_that_is_reached_by_links_starts(tmp_path: Path) -> None:
    """As `uv python install` makes them: a link in ~/.local/bin, beside which private files lie."""
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    home = tmp_path / "home/.local"
    (home / "bin").mkdir(parents=True)
    (home / "lib/python3/site-packages").mkdir(parents=True)
    (home / "share/keyrings").mkdir(parents=True)
    link = home / "bin" / f"python3.{sys.version_info.minor}"
    link.symlink_to(Path(sys.executable).resolve())
    subprocess.run([str(link), "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env/bin/python"
    python.unlink()
    python.symlink_to(link)
    seen = list_interpreter_directories(python)
    assert link in seen
    assert not any(path.is_relative_to(home) and path != link for path in seen)
    code = "import os, sys, ssl; print(os.path.exists(sys.argv[1]), sys.prefix)"
    words = [str(python), "-I", "-c", code, str(home / "share")]
    command = sandbox_command(ISOLATION, SandboxPolicy(seen, gpus=False), words, {"PATH": "/usr/bin:/bin"})
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", str(tmp_path / "env")], done.stderr
    shutil.rmtree(tmp_path / "env")


@live
def test_a_worker_whose_interpreter_cannot_start_is_not_the_subjects_crash(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text("#!/nowhere/python\n")
    python.chmod(0o755)
    with (
        open_subject("reference", python=python, timeout=60, isolation=ISOLATION) as subject,
        pytest.raises(InfrastructureError, match=r"python: does not start in the sandbox"),
    ):
        subject.describe()
