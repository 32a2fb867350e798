"""Events of the suite: they cross from one process to the other whole, and nothing else in the file is shown."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from ci.phases import PhaseClock
from ci.suite.progress import MAX_LINE_BYTES, ProgressEvent, ProgressReader, ProgressWriter, follow_progress

if TYPE_CHECKING:
    from pathlib import Path

START = ProgressEvent("started", "test_conversion[mixtral]")
END = ProgressEvent("ended", "test_conversion[mixtral]", outcome="passed", seconds=1.5)


class Shown:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.events: list[ProgressEvent] = []
        self.ticks = 0

    def show(self, event: ProgressEvent) -> None:
        self.events.append(event)

    def tick(self) -> None:
        self.ticks += 1


def test_events_come_once_and_in_order(tmp_path: Path) -> None:
    writer, reader = ProgressWriter(tmp_path / "events"), ProgressReader(tmp_path / "events")
    assert reader.read_new() == []
    writer.write(START)
    assert reader.read_new() == [START]
    writer.write(END)
    assert reader.read_new() == [END]
    assert reader.read_new() == []


def test_what_is_no_event_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events"
    writer, reader = ProgressWriter(path), ProgressReader(path)
    for junk in (b"\xff\xfe\n", b'{"event": "exploded"}\n', b"x" * 3 * MAX_LINE_BYTES + b"\n", b"[]\n\n"):
        with path.open("ab") as file:
            file.write(junk)
    writer.write(START)
    with path.open("ab") as file:
        file.write(b'{"event": "ended", "test"')  # a line that is being written
    assert reader.read_new() == [START]
    with path.open("ab") as file:
        file.write(b': "a"}\n')
    assert reader.read_new() == [ProgressEvent("ended", "a")]


def test_a_line_without_end_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "events"
    reader = ProgressReader(path)
    path.write_bytes(b"x" * 2**19)
    assert reader.read_new() == []
    assert len(reader._rest) <= MAX_LINE_BYTES


def test_the_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "events"
    program = (
        "import sys; from pathlib import Path; from ci.suite.progress import *;"
        "w = ProgressWriter(Path(sys.argv[1]));"
        "[w.write(ProgressEvent('phase', 'test' * 100, str(n))) for n in range(200)]"
    )
    command = [sys.executable, "-c", program, str(path)]
    for process in [subprocess.Popen(command) for _ in range(2)]:
        assert process.wait() == 0
    assert len(ProgressReader(path).read_new()) == 400


def test_a_clock_tells_the_phase_of_a_test(tmp_path: Path) -> None:
    clock = PhaseClock(ProgressWriter(tmp_path / "events").make_listener("test_a"))
    with clock.measure("load", "Hugging Face float64"):
        pass
    phases = [(event.test, event.phase) for event in ProgressReader(tmp_path / "events").read_new()]
    assert phases == [("test_a", "load, Hugging Face float64"), ("test_a", "")]


def test_events_are_shown_while_the_suite_runs_and_the_last_ones_at_its_end(tmp_path: Path) -> None:
    writer, shown = ProgressWriter(tmp_path / "events"), Shown()
    with follow_progress(tmp_path / "events", shown):
        writer.write(START)
        deadline = time.monotonic() + 30
        while not (shown.events and shown.ticks) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert shown.events == [START]
        writer.write(END)
    assert shown.events == [START, END]
    assert "progress" not in {thread.name for thread in threading.enumerate()}
