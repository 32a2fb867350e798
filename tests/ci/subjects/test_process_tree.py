"""A program is ended with everything that it started, and its end is known before its files are taken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.subjects import process_tree
from ci.subjects.process_tree import ProcessTree, start_tree
from ci.subjects.sandbox import SandboxPolicy, detect_isolation, sandbox_command

if TYPE_CHECKING:
    from collections.abc import Sequence

sandboxed_only = pytest.mark.skipif(
    not detect_isolation().applied, reason=f"no sandbox here: {detect_isolation().description}"
)
WRITERS = """
for number in 1 2 3 4 5 6 7 8; do
    (exec 1>&- 2>&-; while :; do echo x >> {place}/$number; done) &
done
echo started
"""
"""Eight processes in the background, whose shell ends or stays."""


def start(words: Sequence[str], log: Path, *, sandboxed: bool, writable: tuple[Path, ...] = ()) -> ProcessTree:
    def make_command(info: int | None) -> Sequence[str]:
        if not sandboxed:
            return words
        policy = SandboxPolicy(writable=writable, gpus=False)
        return sandbox_command(detect_isolation(), policy, words, {"PATH": "/usr/bin:/bin"}, info=info)

    with log.open("wb") as output:
        return start_tree(make_command, sandboxed=sandboxed, environment={"PATH": "/usr/bin:/bin"}, output=output)


def wait_for(log: Path, word: str) -> None:
    deadline = time.monotonic() + 120
    while word not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that the sandbox's user, who is not root, may enter and write."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o777)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)
    return place


@sandboxed_only
@pytest.mark.parametrize("last", ["exit 0", "sleep 600"])
def test_nothing_inside_writes_after_the_end(last: str, place: Path, tmp_path: Path) -> None:
    for attempt in range(8):
        log, own = tmp_path / f"log{attempt}", place / str(attempt)
        own.mkdir()
        own.chmod(0o777)
        tree = start(["/bin/sh", "-c", WRITERS.format(place=own) + last], log, sandboxed=True, writable=(own,))
        wait_for(log, "started")
        time.sleep(0.02)
        assert tree.end()
        sizes = {path.name: path.stat().st_size for path in own.iterdir()}
        moved = own.rename(place / f"{attempt}-moved")
        time.sleep(0.05)
        assert {path.name: path.stat().st_size for path in moved.iterdir()} == sizes


@sandboxed_only
def test_the_program_cannot_write_what_was_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    tree = start(["/bin/ls", "/proc/self/fd"], log, sandboxed=True)
    tree.popen.wait(120)
    assert tree.end()
    assert log.read_text().split() == ["0", "1", "2", "3"], "3 is the directory that ls reads"


@sandboxed_only
def test_a_program_that_is_missing_or_ends_at_once_is_gone(tmp_path: Path) -> None:
    for words, code in ((["/nowhere"], 127 if os.geteuid() == 0 else 1), (["/bin/true"], 0)):
        tree = start(words, tmp_path / "log", sandboxed=True)
        assert tree.popen.wait(120) == code
        assert tree.end()
        assert tree.end(), "twice is once"


def test_without_a_sandbox_the_process_group_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    tree = start(["/bin/sh", "-c", "sleep 600 & echo $!; echo started; wait"], log, sandboxed=False)
    wait_for(log, "started")
    child = log.read_text().split()[0]
    assert tree.end()
    deadline = time.monotonic() + 120
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}").exists()


def test_what_cannot_be_ended_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a process that a driver holds back: the first process inside is one that no signal reaches."""
    tree, held = (start(["/bin/sleep", "600"], tmp_path / "log", sandboxed=False) for _ in range(2))
    both = ProcessTree(tree.popen, os.pidfd_open(held.popen.pid))
    with monkeypatch.context() as patched:
        patched.setattr(signal, "pidfd_send_signal", lambda *_: None)
        assert not both.end(0.2)
    assert both.end()
    held.end()


def test_a_sandbox_that_does_not_answer_is_the_machines_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    with monkeypatch.context() as patched, log.open("wb") as output:
        patched.setattr(process_tree, "START_SECONDS", 0.2)
        with pytest.raises(InfrastructureError, match=r"did not start within 0\.2 s"):
            start_tree(lambda _: ["/bin/sleep", "600"], sandboxed=True, environment={}, output=output)
    answer = f"import os, time; os.write(int(__import__('sys').argv[1]), b'{{\"child-pid\": {os.getpid()}}}')"
    with log.open("wb") as output, pytest.raises(InfrastructureError, match="ended while it was started"):
        start_tree(
            lambda info: [sys.executable, "-c", answer, str(info)], sandboxed=True, environment={}, output=output
        )


@sandboxed_only
def test_a_sandbox_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """The kernel ends what dies with its parent when the thread ends that started it."""
    trees: list[ProcessTree] = []
    words = ["/bin/sh", "-c", "echo started; sleep 600"]
    starting = threading.Thread(target=lambda: trees.append(start(words, tmp_path / "log", sandboxed=True)))
    starting.start()
    starting.join()
    wait_for(tmp_path / "log", "started")
    with pytest.raises(subprocess.TimeoutExpired):
        trees[0].popen.wait(0.5)
    assert trees[0].end()
