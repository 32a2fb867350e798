"""The store's table, and the progress of the suite: a live line on a terminal, one line a test elsewhere."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.live import Live

from ci.hub.byte_plan import BytePlan
from ci.hub.inventory import StoreEntry
from ci.models import load_models
from ci.suite.progress import ProgressEvent
from ci.terminal import (
    STARTING,
    LiveProgress,
    format_ended_test,
    make_bytes_table,
    make_entries_table,
    make_models_table,
    suite_progress,
)
from tests.ci.report.test_text_table import find_broken_words
from tests.ci.report.test_text_table import render as render_at

if TYPE_CHECKING:
    from ci.report.text_table import FittingTable

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


def skipped(name: str) -> ProgressEvent:
    return ProgressEvent("ended", name, outcome="skipped")


def test_a_chain_that_did_not_run_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with suite_progress() as display:
        for event in (skipped("test_a[mixtral]"), skipped("test_b[mixtral]"), ENDED, skipped("test_c[llama]")):
            display.show(event)
        display.show(ProgressEvent("finished"))
    assert capsys.readouterr().err.splitlines() == [
        "○ test_a[mixtral], test_b[mixtral] did not run",
        "✓ test_conversion[mixtral] 12 s",
        "○ test_c[llama] did not run",
    ]


def test_a_long_chain_names_its_first_tests(capsys: pytest.CaptureFixture[str]) -> None:
    with suite_progress() as display:
        for number in range(30):
            display.show(skipped(f"test_{number}[mixtral]"))
        display.show(ProgressEvent("finished"))
    assert capsys.readouterr().err.endswith("test_19[mixtral] and 10 more did not run\n")


def test_the_live_line_says_that_the_suite_starts() -> None:
    live, console, now = make_live()
    live.show(ProgressEvent("started", STARTING))
    now[0] += 7
    assert live.format_line() == f"7.0 s  {STARTING}"
    live.show(ProgressEvent("started", CONVERSION))
    assert live.format_line() == f"0.0 s  {CONVERSION}"
    live.show(skipped("test_a[mixtral]"))
    live.show(ENDED)
    assert isinstance(console.file, io.StringIO)
    assert "○ test_a[mixtral] did not run\n" in console.file.getvalue()


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


MODELS = tuple(load_models().values())
LONG = replace(MODELS[0], name="a-model-with-a-long-name", model_id="an-organisation/a-model-with-a-long-name-1.5B")
PLAN = BytePlan("a-model-with-a-long-name", "org/x", "vocab=4096,experts=8", 2, 32, 10**10, 10**9, 10**8)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    "table",
    [
        make_models_table([*MODELS, LONG]),
        make_entries_table([ENTRY, replace(ENTRY, reason="not used for 3.0 d")]),
        make_bytes_table([PLAN]),
    ],
)
def test_no_table_breaks_a_word(table: FittingTable, width: int) -> None:
    assert not find_broken_words(table, width)
    assert max(map(len, render_at(table, width).splitlines())) <= width


def test_in_a_narrow_terminal_time_and_phase_stay() -> None:
    live, console, now = make_live(40)
    name = "test_implementation[attention-blockwise-mistral]"
    live.show(ProgressEvent("phase", name, "convert, import"))
    now[0] += 12
    assert live.format_line() == "12 s  test_imp…mistral]: convert, import"
    live.live.start()
    live.show(ProgressEvent("ended", name, outcome="passed", seconds=12.0))
    live.show(ProgressEvent("finished"))
    assert isinstance(console.file, io.StringIO)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "\n", console.file.getvalue()).splitlines()
    (ended,) = [line for line in lines if line.startswith("✓")]
    assert len(ended) <= 40
    assert ended.endswith("mistral] 12 s")
