"""Seconds by phase in the reports: they add up to the wall time, whatever a test claims about itself."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from ci.evidence import Evidence
from ci.phases import PhaseTime
from ci.records import to_json
from ci.report.html_page import render_html
from ci.report.markdown import render_markdown
from ci.report.phase_times import (
    MAX_PHASES,
    complete_phases,
    describe_rest,
    find_longest_test,
    join_variants,
    make_phase_table,
    sum_phases,
)
from ci.report.results import CaseResult, EntryResult
from ci.report.terminal import render_terminal
from tests.ci.report.samples import passing

PHASES = (
    PhaseTime("load", "Hugging Face float64", 2.0, beside=3.0),
    PhaseTime("load", "subject float32 moe=looped", 1.0),
    PhaseTime("load", "subject float32", 0.5),
    PhaseTime("compare", "", 0.25),
)


def evidence(*phases: PhaseTime) -> Evidence:
    return Evidence("mixtral", "test_conversion", phases=phases)


def total(phases: tuple[PhaseTime, ...]) -> float:
    return sum(one.seconds for one in phases)


def test_the_phases_of_a_test_add_up_to_its_seconds() -> None:
    phases = complete_phases(evidence(*PHASES), 10.0)
    assert total(phases) == pytest.approx(10.0)
    assert phases[-1] == PhaseTime("other", "", 6.25)


@pytest.mark.parametrize("lie", [math.nan, math.inf, -math.inf, -5.0, 1e300])
def test_a_test_that_lies_about_its_phases_still_adds_up(lie: float) -> None:
    claimed = [PhaseTime("load", "", lie, beside=lie), PhaseTime("forward", "", 4.0), PhaseTime("compare", "", lie)]
    phases = complete_phases(evidence(*claimed), 10.0)
    assert total(phases) == pytest.approx(10.0)
    assert all(0 <= value <= 10 for one in phases for value in (one.seconds, one.beside))


def test_a_test_with_thousands_of_phases_has_few() -> None:
    claimed = [PhaseTime("forward", f"subject {number}", 0.001) for number in range(5_000)]
    assert len(sum_phases([claimed])) <= MAX_PHASES + 1
    phases = complete_phases(evidence(*claimed), 10.0)
    assert len(phases) <= MAX_PHASES + 1
    assert total(phases) == pytest.approx(10.0)


def test_a_test_without_phases_has_none() -> None:
    assert complete_phases(None, 10.0) == complete_phases(evidence(), 10.0) == ()


def test_variants_are_joined() -> None:
    loads = [one for one in join_variants(PHASES) if one.detail == "subject float32"]
    assert loads == [PhaseTime("load", "subject float32", 1.5)]


def entry() -> EntryResult:
    cases = (
        CaseResult("test_conversion[mixtral]", "test_conversion", "passed", seconds=5.0, phases=PHASES[:1]),
        CaseResult("test_forward_equivalence[mixtral]", "test_forward_equivalence", "passed", seconds=1.5),
        CaseResult("test_implementation[a-b-mixtral]", "test_implementation", "passed", seconds=2.0, phases=PHASES[1:]),
    )
    phases = sum_phases(case.phases for case in cases)
    return EntryResult("mixtral", "passed", cases, seconds=20.0, phases=phases)


def test_a_table_has_a_row_for_each_measured_test_and_says_what_it_leaves_out() -> None:
    table = make_phase_table(entry())
    assert table is not None
    assert table.columns == ("load", "compare")
    assert table.rows == (("conversion", (2.0, 0.0), 5.0), ("implementation a-b", (1.5, 0.25), 2.0))
    assert (table.sums, table.seconds, table.outside, table.beside) == ((3.5, 0.25), 7.0, 11.5, 3.0)
    assert describe_rest(table).startswith("11.5 s of the job are outside of the tests; 3.0 s of work ran beside")
    assert make_phase_table(replace(entry(), phases=())) is None


def test_the_longest_test_of_a_phase_is_named() -> None:
    assert find_longest_test(entry(), PhaseTime("load", "Hugging Face float64")) == "conversion"
    assert find_longest_test(entry(), PhaseTime("load", "subject float32")) == "implementation a-b"
    assert find_longest_test(entry(), PhaseTime("fetch")) == ""


def test_every_report_shows_the_times() -> None:
    outside = (PhaseTime("start", "suite", 6.5),)
    results = replace(passing(), entries=(entry(),), outside=outside)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_terminal(results))
    terminal = console.export_text()
    page, comment = render_html(results), render_markdown(results)
    for text in (terminal, page, comment):
        assert "Hugging Face float64" in text
        assert "11.5 s of the job are outside of the tests" in " ".join(text.split())
        assert "start, suite 6.5 s" in text
    assert max(map(len, terminal.splitlines())) <= 80
    assert "<summary>Seconds by phase of <code>mixtral</code></summary>" in comment
    assert "| **sum** | 3.5 | 0.2 | 7.0 |" in comment
    assert "Seconds by phase</summary>" in page
    assert '"phases": [{"phase": "load", "detail": "Hugging Face float64", "seconds": 2.0, "beside": 3.0}]' in to_json(
        results
    )


def test_a_hostile_detail_is_escaped_everywhere() -> None:
    hostile = entry()
    evil = (PhaseTime("load", "<img src=x>|`@everyone`\n::set-output::", 2.0),)
    results = replace(passing(), entries=(replace(hostile, phases=evil),))
    assert "<img" not in render_html(results)
    assert "| load, `<img`" in render_markdown(results)
    assert "\n::set" not in render_markdown(results)


def test_a_report_without_times_is_what_it_was() -> None:
    results = passing()
    for text in (render_markdown(results), render_html(results)):
        assert "by phase" not in text
        assert "Outside of the tests" not in text
