"""A report's folder belongs to one run at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ci.errors import RequestError
from ci.report_folder import own_report_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_an_earlier_runs_files_are_gone(tmp_path: Path) -> None:
    for name in ("junit.xml", "report.json", "report.md"):
        (tmp_path / name).write_text("old")
    with own_report_folder(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "logs"]


def test_a_second_run_is_refused_with_the_first_ones_process(tmp_path: Path) -> None:
    with own_report_folder(tmp_path):
        (tmp_path / "junit.xml").write_text("of the first run")
        with pytest.raises(RequestError, match=f"process {os.getpid()}"), own_report_folder(tmp_path):
            pass
        assert (tmp_path / "junit.xml").read_text() == "of the first run"
    with own_report_folder(tmp_path):
        pass


HOLD = "import sys, time; from pathlib import Path; from ci.report_folder import own_report_folder\n"
HOLD += "with own_report_folder(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_a_run_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(RequestError, match=f"process {holder.pid}"), own_report_folder(tmp_path):
            pass
        holder.kill()
    with own_report_folder(tmp_path):
        pass


WRITE = """
import sys
from pathlib import Path
from ci.errors import RequestError
from ci.report_folder import own_report_folder
folder, word = Path(sys.argv[1]), sys.argv[2]
try:
    with own_report_folder(folder):
        (folder / "report.json").write_text(word)
        print((folder / "report.json").read_text() == word)
except RequestError:
    print("refused")
"""


@pytest.mark.long
def test_of_many_runs_at_once_none_reads_anothers_result(tmp_path: Path) -> None:
    def run(word: int) -> str:
        done = subprocess.run([sys.executable, "-c", WRITE, str(tmp_path), str(word)], capture_output=True, text=True)
        return done.stdout.strip()

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(run, range(50)))
    assert set(said) <= {"True", "refused"}
    assert "True" in said


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"), own_report_folder(tmp_path / "file"):
        pass
