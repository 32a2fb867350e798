from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ci.suite_process import START_PYTEST

ROOT = Path(__file__).parents[3]
TEST = """
import atexit, sys

def test_passes():
    atexit.register(print, "taken apart")

def test_fails():
    print("said before the end")
    assert False
"""


def test_the_suite_ends_with_the_code_of_pytest_and_all_that_was_said(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(TEST)
    words = [sys.executable, "-I", "-c", START_PYTEST, str(ROOT), str(tmp_path), "-q", "-c", "/dev/null"]
    ended = subprocess.run([*words, "--junitxml", str(tmp_path / "junit.xml")], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "said before the end" in ended.stdout
    assert "1 failed, 1 passed" in ended.stdout
    assert "taken apart" not in ended.stdout
    assert 'tests="2"' in (tmp_path / "junit.xml").read_text()
