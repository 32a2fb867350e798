"""The files that say how the suite ended, written and read back."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ci.report.result_files import EXIT_CODE, FORMAT_KEY, read_result_files
from ci.report.results import Attempt
from ci.report.run_files import record_suite_end, write_ended, write_host

if TYPE_CHECKING:
    from pathlib import Path


def read(folder: Path) -> Attempt:
    attempt = read_result_files(folder)
    assert isinstance(attempt, Attempt)
    return attempt


@pytest.mark.parametrize(
    ("program", "code"),
    [("pass", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)],
)
def test_the_exit_code_of_a_process_is_read_back(tmp_path: Path, program: str, code: int) -> None:
    write_host(tmp_path, {"host": "h"})
    with subprocess.Popen([sys.executable, "-c", program]) as suite, record_suite_end(tmp_path, suite):
        suite.wait()
    assert (read(tmp_path).exit_code, read(tmp_path).ended) == (code, "")
    assert read(tmp_path).records_exit_code


def run_interrupted(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as suite, record_suite_end(folder, suite):
        suite.wait()
        raise KeyboardInterrupt


def test_an_interruption_is_recorded_and_goes_on(tmp_path: Path) -> None:
    write_host(tmp_path, {"host": "h"})
    with pytest.raises(KeyboardInterrupt):
        run_interrupted(tmp_path)
    assert (read(tmp_path).exit_code, read(tmp_path).ended) == (0, "interrupted")


def test_a_suite_that_still_runs_has_no_exit_code(tmp_path: Path) -> None:
    write_host(tmp_path, {"host": "h"})
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as suite:
        with pytest.raises(KeyError), record_suite_end(tmp_path, suite):
            raise KeyError
        suite.kill()
    assert (read(tmp_path).exit_code, read(tmp_path).records_exit_code) == (None, True)


def test_the_format_is_no_fact_about_the_machine(tmp_path: Path) -> None:
    write_host(tmp_path, {"gpu0": "H100"})
    assert FORMAT_KEY in (tmp_path / "host.json").read_text()
    assert read(tmp_path).host == {"gpu0": "H100"}


def test_a_time_limit_is_one_line(tmp_path: Path) -> None:
    write_host(tmp_path, {})
    write_ended(tmp_path, "time limit of 5 s")
    assert read(tmp_path).ended == "time limit of 5 s"


@pytest.mark.parametrize("text", ["", "x", "1.5", "12345", "0x1", "1\n2", "--1", "\u0661"])
def test_an_exit_code_that_is_no_number_is_missing(tmp_path: Path, text: str) -> None:
    write_host(tmp_path, {})
    (tmp_path / EXIT_CODE).write_text(text)
    assert (read(tmp_path).exit_code, read(tmp_path).records_exit_code) == (None, True)
