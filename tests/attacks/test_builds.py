"""A build backend that attacks: each build ends as the subject's failure or as an overlay, and changes nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from ci.environments import overlay as overlay_module
from ci.environments.overlay import build_overlay
from ci.subjects.exchange import remove_tree
from ci.subjects.failure import SubjectCrashError, SubjectTimeoutError
from ci.subjects.interpreter_paths import list_interpreter_directories
from ci.subjects.provenance import read_commit
from ci.subjects.sandbox import detect_isolation
from tests.attacks.scene import hash_tree, list_leftovers, list_processes
from tests.ci.environments.conftest import DESCRIPTION
from tests.ci.environments.wheels import write_subject

if TYPE_CHECKING:
    from ci.environments.base import BaseEnvironment

Install = Literal["wheel", "editable"]
ISOLATION = detect_isolation()
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not ISOLATION.applied, reason=f"no sandbox here: {ISOLATION.description}"),
]
HEADER = """
import os, pathlib, shutil, signal, socket, subprocess, sys
MARKER, OUTSIDE, TARGET, PATHS = {marker!r}, {outside!r}, {target!r}, {paths!r}


def say(*words):
    with open(pathlib.Path(TARGET) / "attack.txt", "a") as file:  # pip hides what a successful build prints
        print(*words, file=file)


def attempt(label, action):
    try:
        action()
    except BaseException as error:
        say("refused", label, type(error).__name__)
    else:
        say("done", label)


say("begins")
"""
BUILDS = {
    "writes the judge's files, site-packages and .pth": """
for path in PATHS:
    attempt(path, lambda: open(path, "a").write("evil"))
""",
    "reads the environment and the files of Actions": """
if leaked := [name for name in os.environ if name.startswith(("GITHUB", "HF_T", "PYTHONPATH", "LD_"))]:
    attempt(f"leaked {leaked}", lambda: None)
attempt("secret", lambda: open(OUTSIDE).read())
attempt("processes", lambda: [open(f"/proc/{pid}/environ") for pid in (os.getppid(), *range(30, 40000))])
""",
    "uses the network": """
attempt("network", lambda: socket.create_connection(("192.0.2.1", 80), timeout=2))
""",
    "kills every process": """
for number in (signal.SIGSTOP, signal.SIGKILL):
    for pid in {*range(1, 40000)} - {os.getpid(), os.getppid()}:
        try:
            os.kill(pid, number)
        except OSError:
            pass
""",
    "leaves a daemon": """
if not os.fork():
    os.setsid()
    os.execv("/bin/sh", ["/bin/sh", "-c", "while true; do sleep 1; done", MARKER])
""",
    "leaves files for the next job": """
for place in ("/var/tmp", "/run", "/root", "/home", str(pathlib.Path(TARGET).parent)):
    attempt(place, lambda: open(f"{place}/{MARKER}", "w").write("evil"))
for place in ("/tmp", "/dev/shm"):
    open(f"{place}/{MARKER}", "w").write("evil")
""",
    "removes its installation": """
import atexit
atexit.register(lambda: [shutil.rmtree(pathlib.Path(TARGET) / name, ignore_errors=True) for name in ("site", "source")])
""",
    "leaves a daemon that closed everything": """
if not os.fork():
    os.setsid()
    os.closerange(0, 256)
    os.execv("/bin/sh", ["/bin/sh", "-c", "while true; do sleep 1; done", MARKER])
""",
    "makes its log a terabyte": """
os.ftruncate(1, 2**40)
raise SystemExit("failed on purpose")
""",
    "digs directories deeper than recursion goes": """
here = os.open(TARGET, os.O_RDONLY)
for _ in range(3000):
    os.mkdir("d", dir_fd=here)
    below = os.open("d", os.O_RDONLY, dir_fd=here)
    os.close(here)
    here = below
""",
}


@pytest.mark.parametrize("install", ["editable", "wheel"])
@pytest.mark.parametrize("name", BUILDS)
def test_a_build_that_attacks(
    name: str, install: Install, base: BaseEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay_module, "BUILD_SECONDS", 30)
    marker = f"hub-attack-build-{os.getpid()}-{abs(hash((name, install)))}"
    outside, target = tmp_path / "outside", tmp_path / "overlay"
    outside.write_text("secret")
    outside.chmod(0o666)
    site = next(base.path.glob("lib/python3*/site-packages"))
    judge = Path(__file__).parents[2] / "ci"
    paths = [str(judge / "run.py"), str(site / "evil.pth"), str(site / "sitecustomize.py"), str(outside)]
    words = HEADER.format(marker=marker, outside=str(outside), target=str(target), paths=paths)
    checkout = write_subject(tmp_path / "checkout")
    (checkout / "setup.py").write_text(words + BUILDS[name] + (checkout / "setup.py").read_text())
    protected = (judge, site, outside)
    before = hash_tree(*protected)
    description = replace(DESCRIPTION, install=install, import_test="")
    with suppress(SubjectCrashError, SubjectTimeoutError):
        overlay = build_overlay(base.python, description, checkout, target, ISOLATION)
        assert overlay.path.resolve().is_relative_to(target.resolve())
    log, said = target.with_name("overlay.log"), (target / "attack.txt").read_text().splitlines()
    assert said, "the attack was not made"
    assert not [line for line in said if line.startswith("done")]
    assert log.stat().st_size < 2**30
    assert hash_tree(*protected) == before
    assert list_processes(marker) == []
    assert list_leftovers(marker) == []
    assert not (tmp_path / marker).exists()
    remove_tree(target)
    assert not target.exists()


LINK = """
import os, pathlib
here = pathlib.Path({target!r})
if "ATTACKED" not in os.environ and (here / "site").is_dir() and not (here / "site.old").exists():
    for name in ("site", "source"):
        (here / name).rename(here / f"{{name}}.old")
        (here / name).symlink_to({whole!r})
"""


@pytest.mark.parametrize("install", ["editable", "wheel"])
def test_an_import_that_puts_a_link_in_its_place_shows_nobody_what_is_there(
    install: Install, base: BaseEnvironment, tmp_path: Path
) -> None:
    target, secrets = tmp_path / "overlay", tmp_path / "secrets"
    secrets.mkdir()
    checkout = write_subject(tmp_path / "checkout")
    (checkout / "standin" / "__init__.py").write_text(LINK.format(target=str(target), whole=str(secrets)))
    description = replace(DESCRIPTION, install=install, import_test="import standin")
    with pytest.raises(SubjectCrashError, match="left no directory in the place of its installation"):
        build_overlay(base.python, description, checkout, target, ISOLATION)
    assert (target / "site").readlink() == secrets


def test_no_program_of_a_checkouts_git_configuration_is_run(tmp_path: Path) -> None:
    marker, program = tmp_path / "ran", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    program.chmod(0o755)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git = ["git", "-C", str(checkout), "-c", "user.name=x", "-c", "user.email=x@y"]
    (checkout / "file").write_text("1")
    (checkout / ".gitattributes").write_text("file filter=evil diff=evil\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    for key in ("filter.evil.clean", "filter.evil.process", "filter.Two.x.clean", "core.fsmonitor", "diff.external"):
        subprocess.run([*git, "config", key, str(program)], check=True)
    for key in ("diff.evil.textconv", "diff.evil.command", "core.sshCommand", "core.pager", "gpg.program"):
        subprocess.run([*git, "config", key, str(program)], check=True)
    subprocess.run([*git, "config", "core.hooksPath", str(tmp_path)], check=True)
    for hook in ("post-index-change", "fsmonitor-watchman", "post-checkout"):
        shutil.copy(program, tmp_path / hook)
    (checkout / "file").write_text("2")
    commit = read_commit(checkout, os.environ)
    assert not marker.exists()
    assert commit is None or commit.endswith("-dirty")


def test_what_an_overlay_sees_is_in_its_own_directory(base: BaseEnvironment) -> None:
    for path in list_interpreter_directories(base.python):
        assert path != Path("/"), path
