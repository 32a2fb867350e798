from __future__ import annotations

import io
from html import unescape
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from ci.evidence import to_property
from ci.report.build_results import build_results
from ci.report.html_page import render_html
from ci.report.identities import shorten_test_id
from ci.report.junit import read_junit
from ci.report.markdown import render_markdown
from ci.report.terminal import render_terminal
from tests.ci.report import samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.report.results import Results


def shown(results: Results, width: int = 150, **options: object) -> str:
    out = io.StringIO()
    Console(file=out, width=width, **options).print(render_terminal(results))  # type: ignore[arg-type]
    return out.getvalue()


def test_a_failing_run_says_what_where_and_how_to_reproduce() -> None:
    text = shown(samples.failing(), 300)
    said = "layer 1, attention [conversion]: the rotary embedding is wrong (4,000 x the limit)"
    assert text.startswith(f"Failed: 3 of 3 models, 1 cause (1 new): {said}\n")
    row = next(line for line in text.splitlines() if "moe_implementation dropless" in line)
    expected = "moe_implementation dropless numeric mismatch decoder.1.mixer.query (float32) 4,000 x 5.5 s"
    assert " ".join(row.split()) == expected
    assert "decoder.1.mixer.query float32 (2, 64, 576), input random: error 1.6e-02, limit 4.0e-06" in text
    assert "expected 0.123457, got 0.139457" in text
    assert "reproduce: hub-tests run smollm2 --layers 2 --subject reference --device cuda" in text
    assert "numeric mismatch, 3 models, newly failing, last good" in text
    assert "Compared with 028877665544 on main: 5 tests newly failing" in text


def test_a_passing_run_is_a_table_with_margins() -> None:
    text = shown(samples.passing())
    assert text.startswith("Passed: 3 models, 23 tests\n")
    assert "reproduce" not in text
    assert "43 %" in text


@pytest.mark.parametrize("name", ["passing", "failing", "mixed", "crashed", "neutral", "hostile"])
def test_every_test_has_its_line(name: str) -> None:
    results = getattr(samples, name)()
    text = shown(results, 1000)
    for entry in results.entries:
        for case in entry.cases:
            assert shorten_test_id(case.name, entry.name) in text


def test_hostile_text_is_neither_markup_nor_control() -> None:
    plan = samples.plan_of("smollm2")
    evil = samples.Fault("failure", "[bold red]x[/] [link=https://e.x]y[/link] #x1B[2J", "x", {"raw": ""})
    text = shown(
        samples.make_results(plan, {"test_conversion[smollm2]": evil}), 300, force_terminal=True, color_system=None
    )
    assert "[bold red]x[/] [link=https://e.x]y[/link]" in text
    assert "\x1b[2J" not in text
    assert "\x1b]8" not in text


def test_a_label_and_a_note_are_shown() -> None:
    assert "no result file, the job's conclusion is 'failure'" in shown(samples.crashed(), 300)


@pytest.mark.parametrize("render_as", ["terminal", "markdown", "html"])
def test_notes_of_the_download_are_in_every_report(render_as: str) -> None:
    plan = samples.plan_of("smollm2")
    moved = {"notes": ("whole files were moved", *(f"note {n}" for n in range(50)))}
    told = {
        test: samples.evidence_of(test, "smollm2", **(moved if test.startswith("test_download") else {}))
        for test in plan.entries[0].tests
    }
    cases = (samples.with_property(test, to_property(evidence)[1]) for test, evidence in told.items())
    results = build_results(plan, read_junit(samples.document("".join(cases))))
    say: dict[str, Callable[[Results], str]] = {"terminal": shown, "markdown": render_markdown, "html": render_html}
    text = say[render_as](results)
    assert "whole files were moved" in text
    assert "note 6" in text
    assert "note 7" not in text


@pytest.mark.parametrize("render_as", ["terminal", "markdown", "html"])
@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        (("none: bubblewrap is not installed", "bubblewrap 0.8.0"), "Not isolated (bubblewrap is not installed): "),
        (("bubblewrap 0.8.0", "bubblewrap 0.8.0"), "isolated by bubblewrap 0.8.0"),
        (("not needed: hub-tests' own code", ""), "isolation not needed: hub-tests' own code"),
        (("", ""), ""),
    ],
)
def test_the_first_lines_say_whether_the_subject_was_isolated(
    render_as: str, recorded: tuple[str, str], told: str
) -> None:
    plan = samples.plan_of("smollm2")
    tests = plan.entries[0].tests[:2]
    faults = {test: samples.Fault(evidence={"isolation": text}) for test, text in zip(tests, recorded, strict=True)}
    say: dict[str, Callable[[Results], str]] = {"terminal": shown, "markdown": render_markdown, "html": render_html}
    text = unescape(say[render_as](samples.make_results(plan, faults)))
    first = text.partition("<h2>")[0].partition("<body>")[2] if render_as == "html" else "\n".join(text.split("\n")[:4])
    assert told in first
    assert ("isolat" in first.lower()) == bool(told)
    warned = "this result is the pull request's own word." in first
    assert warned == told.startswith("Not isolated")
