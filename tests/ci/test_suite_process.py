import os
import sys
import time
from pathlib import Path

import pytest

from ci import suite_process
from ci.run_options import RunOptions


def test_the_suite_commands_no_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The suite prints messages of the subject, and what it leaves running has lost its way to the runner."""
    program = (
        "import subprocess, sys; print('::add-mask::forged', flush=True); print('##[error]forged', file=sys.stderr);"
        "subprocess.Popen(['/bin/sh', '-c', 'while :; do echo ::error::late || exit; sleep 0.05; done'],"
        " start_new_session=True)"
    )
    monkeypatch.setattr(suite_process, "_pytest_command", lambda *_: [sys.executable, "-c", program])
    suite_process.run_suite([], RunOptions(), tmp_path, {**os.environ, "GITHUB_ACTIONS": "true"})
    time.sleep(0.3)
    out, err = capfd.readouterr()
    assert out == ""
    assert {line for line in err.splitlines() if "late" not in line} == {"\\::add-mask::forged", "#\\#[error]forged"}
    assert not [line for line in err.splitlines() if line.startswith("::")]
