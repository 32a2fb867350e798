from __future__ import annotations

from dataclasses import replace

from ci.report.support_matrix_markdown import render_support_matrix
from tests.ci.report.history_samples import HEADLINE, make_formats_matrix
from tests.ci.report.test_support_matrix import NIGHT, build


def test_every_cell_is_a_row_of_its_formats_table() -> None:
    matrix = build(NIGHT)
    text = render_support_matrix(matrix)
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| model")]
    assert len(rows) == len(matrix.cells)
    assert text.count("### ") == len(matrix.formats)
    assert "| `tiny` | forward | bfloat16 | ✅ passed | 40 % | 2026-11-27 | `aaaaaaaaaaaa` |" in text
    assert "no model of this format is in the registry" in text


def test_a_sentence_of_what_failed_stands_once_for_a_model() -> None:
    text = render_support_matrix(make_formats_matrix())
    assert text.count("rope_interleaved") == text.count(HEADLINE) == 1


def test_a_stale_or_red_cell_says_so_and_texts_are_escaped() -> None:
    night = replace(NIGHT, date="2026-10-01T00:00:00Z", libraries={"torch": "2|<b>"}, device="cuda")
    text = render_support_matrix(build(night))
    assert "stale: 57 days old" in text
    assert r"torch `2\|<b>` on cuda |" in text
