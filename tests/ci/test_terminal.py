import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from rich.live import Live

from ci.errors import RequestError
from ci.suite_progress import ProgressEvent
from ci.terminal import LiveProgress, format_ended_test, format_size, parse_size, suite_progress


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("500MB", 500_000_000), ("1.5 TB", 1_500_000_000_000), ("2g", 2 * 10**9), ("7GiB", 7 * 2**30)],
)
def test_parse_size(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1", "1XB", "1e3"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(RequestError, match="expected a number with a unit"):
        parse_size(text)


def test_size_for_people() -> None:
    assert [format_size(n) for n in (0, 999, 1500, 6_329_376_768, 2 * 10**13)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "6.3 GB",
        "20.00 TB",
    ]


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
