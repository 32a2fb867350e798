"""The store's table, and the progress of the suite: a live line on a terminal, one line a test elsewhere."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from rich.live import Live

from ci.hub.inventory import StoreEntry
from ci.suite_progress import ProgressEvent
from ci.terminal import LiveProgress, format_ended_test, make_entries_table, suite_progress

ENTRY = StoreEntry("owner/model", "a" * 40, 2, "/store/x", 5000, "complete", 0.0, in_use=False)


def render(*entries: StoreEntry) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(make_entries_table(entries))
    return captured.get()


def test_reasons_are_shown_where_there_are_any() -> None:
    assert "why" not in render(ENTRY)
    shown = render(ENTRY, replace(ENTRY, state="removed", reason="not used for 3.0 d"))
    assert "why" in shown
    assert "not used for 3.0 d" in shown


CONVERSION = "test_conversion[mixtral]"
ENDED = ProgressEvent("ended", CONVERSION, outcome="passed", seconds=12.34)


def make_live(width: int = 80) -> tuple[LiveProgress, Console, list[float]]:
    now = [100.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    return LiveProgress(Live(console=console, auto_refresh=False, transient=True), lambda: now[0]), console, now


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (ENDED, "✓ test_conversion[mixtral] 12 s"),
        (replace(ENDED, outcome="failed", seconds=1.25), "✗ test_conversion[mixtral] failed 1.2 s"),
        (replace(ENDED, outcome="skipped", seconds=0.0), "○ test_conversion[mixtral] did not run 0.0 s"),
        (replace(ENDED, test="a\n::error::b\x1b[2J"), "✓ a ::error::b 12 s"),
    ],
)
def test_a_test_that_ended_is_one_line(event: ProgressEvent, line: str) -> None:
    assert format_ended_test(event) == line


def test_a_log_gets_one_line_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    with suite_progress() as display:
        for event in (ProgressEvent("started", CONVERSION), ProgressEvent("phase", CONVERSION, "convert"), ENDED):
            display.show(event)
            display.tick()
        assert capsys.readouterr().err == "✓ test_conversion[mixtral] 12 s\n"
        display.show(ProgressEvent("finished"))
    assert capsys.readouterr().err == ""


def test_the_live_line_names_time_test_and_phase() -> None:
    live, _, now = make_live()
    assert live.format_line() == ""
    live.show(ProgressEvent("started", CONVERSION))
    live.show(ProgressEvent("phase", CONVERSION, "convert, import"))
    now[0] += 12
    assert live.format_line() == "12 s  test_conversion[mixtral]: convert, import"
    live.show(ProgressEvent("started", "test_conversion[llama]"))
    assert live.format_line().endswith("convert, import (and 1 more)")
    live.show(ENDED)
    live.show(ProgressEvent("ended", "test_conversion[llama]", outcome="passed"))
    assert live.format_line() == ""


def test_the_live_line_never_breaks_and_goes_away() -> None:
    live, console, _ = make_live(40)
    live.live.start()
    live.show(ProgressEvent("phase", "test_" + "x" * 60, "load, Hugging Face float64"))
    live.show(ENDED)
    live.show(ProgressEvent("finished"))
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "\n", written).splitlines()
    assert "✓ test_conversion[mixtral] 12 s" in lines
    assert max(map(len, lines)) <= 40
    assert written.endswith("\x1b[1A\x1b[2K"), "the line is erased at the end"
    assert not live.live.is_started
