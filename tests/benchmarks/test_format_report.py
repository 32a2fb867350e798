"""What a run over every format leaves: one row a format of what exports lose, and pages made from the run itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.format_report import _show_table, read_reports, show_companions, write_pages
from ci.evidence import Companion
from ci.report.companion_tables import CompanionRow, CompanionTable
from ci.report.report_files import write_report
from tests.ci.report.companion_samples import make_exports

if TYPE_CHECKING:
    from pathlib import Path

LOST = Companion("config.json", "eos_token_id", "changed", "finding", "257", "2")
SIZED = tuple(Companion("tokenizer files", "a|b.json", "dropped", "finding", f"{size} bytes") for size in (1, 2))
FINE = Companion("config.json", "hidden_size", "kept", "equal", "8", "8")
REGISTRY = """[smollm2]
model_id = "HuggingFaceTB/SmolLM2-135M-Instruct"
checkpoint_format = "llama"
"""


def test_a_format_is_a_row_that_names_whose_loss_is_not_everybodys() -> None:
    rows = (CompanionRow(LOST, ("a",)), CompanionRow(SIZED[0], ("a",)), CompanionRow(SIZED[1], ("b",)))
    row = _show_table(CompanionTable("llama", ("a", "b"), rows, ()))
    assert row.startswith("| llama | a, b | 3 findings | ")
    assert "config.json: eos_token_id changed (a)" in row
    assert r"tokenizer files: a\|b.json dropped |" in row, "one loss, whatever its size"


def test_what_is_the_same_is_counted_and_not_listed() -> None:
    (row,) = show_companions([make_exports(smollm2=(LOST, FINE))]).splitlines()[2:]
    assert row == "| llama | smollm2 | 1 finding, 1 the same | config.json: eos_token_id changed |"


def test_the_run_is_the_only_night_of_its_pages(tmp_path: Path) -> None:
    write_report(make_exports(smollm2=(LOST,)), tmp_path / "report-fast_llm")
    (tmp_path / "models.toml").write_text(REGISTRY)
    reports = read_reports(tmp_path)
    assert len(reports) == 1
    pages = write_pages(reports, tmp_path, tmp_path / "models.toml")
    assert sorted(path.name for path in pages.iterdir()) == ["index.html", "matrix.html"]
    assert '"entry": "smollm2"' in (tmp_path / "history.jsonl").read_text()
    assert "smollm2" in (pages / "matrix.html").read_text()
