"""The dashboard as text: every model, finding and cell, and nothing that a record could add to the page."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ci.report.dashboard import make_matrix_table, render_dashboard, render_matrix
from ci.report.history import Baseline
from ci.report.support_matrix import MatrixCell, SupportMatrix
from tests.ci.report.history_samples import (
    HEADLINE,
    MODELS,
    REFUSED,
    make_formats_matrix,
    make_history,
    make_many,
    make_matrix,
)
from tests.ci.report.page import Page

MADE = "2026-11-15T04:00:00Z"


def render(history: Baseline | None = None) -> str:
    known = make_history() if history is None else history
    return render_dashboard(known, made=MADE, repository_url="https://github.com/o/r", matrix=make_matrix())


def test_the_dashboard_tells_everything() -> None:
    text = " ".join(Page(render()).text.split())
    assert "1 of 6 models fail" in text
    assert "drifting while green 1" in text
    assert f"{HEADLINE} numeric mismatch since 2026-11-08, 7 nights" in text
    assert "error / limit moved from 16 % to 42 % on 2026-11-01, when" in text
    assert all(name in text for name in MODELS)
    assert "2026-11-01 torch 2.12.1 → 2.13.0" in text
    assert "no model of this format is in the registry" in text


def test_an_empty_history_is_a_page_too() -> None:
    assert "No night yet" in Page(render(Baseline())).text


def test_an_empty_history_says_so_instead_of_empty_tables() -> None:
    page = Page(render(Baseline({})))
    assert "the first scheduled run adds its models here" in page.text
    assert not {attributes.get("id") for _, attributes in page.tags} & {"models"}
    assert "Margin over nights" not in page.text


@pytest.mark.parametrize("tested", [True, False])
def test_every_row_of_the_matrix_reaches_over_all_columns(tested: bool) -> None:
    known = make_matrix()
    cells = known.cells if tested else tuple(replace(c, state="empty", reason="never tested") for c in known.cells[-2:])
    html = render_matrix(replace(known, cells=cells), made=MADE)
    head, *rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    spans = [
        sum(int(wide or 1) for wide in re.findall(r'<t[hd](?: [^>]*?colspan="(\d+)")?[^>]*>', row)) for row in rows
    ]
    assert set(spans) == {head.count("<th")}


@pytest.mark.parametrize("page", ["dashboard", "matrix"])
def test_the_pages_are_complete_and_load_nothing(page: str) -> None:
    html = render() if page == "dashboard" else render_matrix(make_matrix(), made=MADE)
    parsed = Page(html)
    assert parsed.open == []
    names = [tag for tag, _ in parsed.tags]
    assert names.count("script") == 1
    assert not set(names) & {"img", "iframe", "link", "object", "embed", "base", "form", "image", "use"}
    for _, attributes in parsed.tags:
        assert not {key for key in attributes if key.startswith("on") or key in ("style", "src", "srcset")}


def test_hostile_records_stay_text() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    (known,) = make_history(3, ("smollm2",)).records.values()
    case = replace(known[0].cases[0], name=evil, outcome="failed", headline=evil, failure_class=evil)
    nights = tuple(
        replace(night, entry=evil, model_id=evil, verdict="failed", sha=evil + str(at), date=evil, cases=(case,))
        for at, night in enumerate(known)
    )
    nights = tuple(
        replace(night, run_url="javascript:alert(1)", libraries={evil: str(at)}) for at, night in enumerate(nights)
    )
    html = render(Baseline({evil: nights}, (evil,)))
    assert html.count("<script>") == 1
    assert "<img" not in html
    assert 'href="javascript' not in html


def test_many_models_stay_a_small_page() -> None:
    html = render(make_many())
    assert html.count('class="strip" viewBox') == 256
    assert len(html) < 8_000_000


def test_the_matrix_orders_its_columns_by_check() -> None:
    table = make_matrix_table(make_matrix())
    assert table.columns == (
        ("forward", "float32"),
        ("forward", "bfloat16"),
        ("attention sdpa", "float32"),
        ("attention sdpa", "bfloat16"),
        ("moe dropless", ""),
        ("export", ""),
    )
    assert table.rows[-1].note == "no model of this format is in the registry"


def test_a_row_names_its_night_once_and_a_cell_of_another_night_its_own() -> None:
    libraries = {"torch": "2.14.1", "transformers": "5.24.0", "numpy": "2.0"}
    cell = MatrixCell("llama", "m", "o/m", "forward", dtype="float32", state="passed", margin=0.4, libraries=libraries)
    known = replace(cell, date="2026-11-27T01:00:00Z", sha="7d61a1ba2047", device="cpu", run_url="https://g.example/1")
    older = replace(known, check="export", dtype="", date="2026-11-20T01:00:00Z", sha="1234567890", stale="7 days old")
    empty = replace(cell, check="variant", variant="moe=dropless", state="empty", reason="needs triton")
    matrix = SupportMatrix("fast_llm", MADE, (known, replace(known, dtype="bfloat16"), older, empty))
    assert make_matrix_table(matrix).rows[0].night == known
    html = render_matrix(matrix, made=MADE)
    shown = re.sub(r' title="[^"]*"', "", html)
    assert shown.count("2026-11-27 · 7d61a1b · cpu · torch 2.14.1, transformers 5.24.0") == 1
    assert shown.count("2026-11-20 · 1234567 · cpu") == 1
    assert "stale: 7 days old" in shown
    assert "needs triton" in shown
    assert html.count('title="2026-11-27') == 2
    assert 'href="https://g.example/1"' in html
    assert make_matrix_table(SupportMatrix("fast_llm", MADE, (empty,))).rows[0].night is None


def test_many_columns_without_a_result_are_one_sentence() -> None:
    cell = MatrixCell("llama", "m", "o/m", "forward", dtype="float32", state="passed", margin=0.4, date=MADE)
    layouts = [
        MatrixCell("llama", "m", "o/m", "variant", f"layout=tp{i}", reason="tested with --deep only") for i in range(5)
    ]
    flash = MatrixCell("llama", "m", "o/m", "variant", "attention=flash", reason="needs cuda")
    table = make_matrix_table(SupportMatrix("fast_llm", MADE, (cell, *layouts, flash)))
    assert table.columns == (("forward", "float32"), ("attention flash", ""))
    assert table.untested == {"tested with --deep only": tuple(f"layout tp{i}" for i in range(5))}
    shown = Page(render_matrix(SupportMatrix("fast_llm", MADE, (cell, *layouts, flash)), made=MADE)).text
    assert "Empty for every model, tested with --deep only: layout tp0, layout tp1" in shown
    tested = replace(layouts[0], state="passed", margin=0.1, date=MADE, reason="")
    table = make_matrix_table(SupportMatrix("fast_llm", MADE, (cell, tested, *layouts[1:])))
    assert ("layout tp0", "") in table.columns
    assert "layout tp0" not in table.untested["tested with --deep only"]


def test_a_model_that_was_refused_is_one_sentence_and_adds_no_column() -> None:
    matrix = make_formats_matrix()
    table = make_matrix_table(matrix)
    assert table.columns == (
        ("forward", "float32"),
        ("forward", "bfloat16"),
        ("moe looped", "float32"),
        ("moe looped", "bfloat16"),
        ("export", ""),
    )
    rows = {row.entry: row for row in table.rows}
    assert rows["refused"].note == f"an earlier test failed: {REFUSED}"
    assert rows["refused"].cells == ()
    assert table.untested == {}
    html = render_matrix(matrix, made=MADE)
    assert html.count("rope_interleaved") == 1
    assert html.count('data-verdict="untested"') == 1


def test_a_cell_of_a_whole_check_reaches_over_its_dtypes() -> None:
    matrix = make_formats_matrix()
    rows = {row.entry: row for row in make_matrix_table(matrix).rows}
    assert rows["right"].spans == (1, 1, 1, 1, 1)
    assert rows["dense"].spans == (1, 1, 2, 0, 1)
    whole, covered = rows["dense"].cells[2:4]
    assert whole is not None
    assert (whole.reason, covered) == ("the subject does not run it here", None)
    assert render_matrix(matrix, made=MADE).count('colspan="2"') == 1


def test_what_failed_stands_below_its_model_once() -> None:
    rows = {row.entry: row.finding for row in make_matrix_table(make_formats_matrix()).rows}
    assert rows["right"] == rows["refused"] == ""
    assert rows["wrong"] == HEADLINE
    assert rows["dense"].startswith("AttributeError")
    assert render_matrix(make_formats_matrix(), made=MADE).count(HEADLINE) == 1


def test_models_that_no_night_tested_are_a_table_all_the_same() -> None:
    never = [MatrixCell("llama", "m", "o/m", check, reason="never tested") for check in ("forward", "export")]
    table = make_matrix_table(SupportMatrix("fast_llm", MADE, tuple(never)))
    assert (table.columns, [row.note for row in table.rows]) == ((), ["never tested"])
    assert 'colspan="1"><div>never tested' in render_matrix(SupportMatrix("fast_llm", MADE, tuple(never)), made=MADE)
