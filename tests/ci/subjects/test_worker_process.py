"""The worker's process by itself: its program, its environment, and the three ways in which it gives no response."""

from __future__ import annotations

import os
import stat
import sys
import textwrap
from pathlib import Path

import pytest

from ci.subjects import worker_process
from ci.subjects.exchange import Exchange
from ci.subjects.worker_launch import WorkerLaunch
from ci.subjects.worker_process import InvalidResponse, WorkerDied, WorkerProcess, WorkerTimeout


def launch(path: tuple[Path, ...] = (), python: Path = Path(sys.executable), **environ: str) -> WorkerLaunch:
    return WorkerLaunch("reference", python, path, environ)


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("time.sleep(600)", WorkerTimeout, "^$"),
        ("print('last words'); sys.exit(3)", WorkerDied, "exited with code 3"),
        ("os.write(write, b'1\\n2\\n')", InvalidResponse, "several responses"),
    ],
)
def test_a_process_without_one_response(
    code: str, error: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "EXIT_SECONDS", 120.0)
    process = start(launch(python=interpreter(tmp_path, code)), tmp_path)
    process.send_request(b"{}")
    with pytest.raises(error, match=says):
        process.read_response(2.0 if error is WorkerTimeout else 120.0)
    assert process.kill() == ("last words" if "print" in code else "")


def test_one_line_is_the_response(tmp_path: Path) -> None:
    process = start(launch(python=interpreter(tmp_path, "os.write(write, b'{}\\n'); time.sleep(600)")), tmp_path)
    process.send_request(b"{}")
    assert process.read_response(120.0) == b"{}\n"
    process.kill()


def start(launched: WorkerLaunch, home: Path) -> WorkerProcess:
    return WorkerProcess.start(launched, home, Exchange(home / "exchange", launched.isolation))


def interpreter(directory: Path, code: str) -> Path:
    script = directory / "interpreter"
    head = "import os, sys, time\nread, write = int(sys.argv[-2]), int(sys.argv[-1])\nos.read(read, 1 << 20)\n"
    script.write_text(f"#!{sys.executable}\n{head}{textwrap.dedent(code)}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert os.access(script, os.X_OK)
    return script
