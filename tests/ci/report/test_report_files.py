from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.report.report_files import read_report, write_report
from tests.ci.report import samples

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["passing", "failing", "mixed", "crashed", "neutral", "hostile"])
def test_a_report_is_written_and_read_back(tmp_path: Path, name: str) -> None:
    results = getattr(samples, name)()
    written = write_report(results, tmp_path / "a" / "b")
    assert [path.name for path in written] == ["report.json", "report.md", "report.html"]
    assert all(path.stat().st_size > 500 for path in written)
    assert read_report(tmp_path / "a" / "b") == results
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["report.html", "report.json", "report.md"]


def test_infinite_errors_survive(tmp_path: Path) -> None:
    wrong = samples.wrong_forward()
    worst = replace(wrong["worst"], error=float("inf"), max_abs=float("inf"))
    fault = samples.Fault(evidence={**wrong, "worst": worst, "measures": (worst,)})
    results = samples.make_results(samples.plan_of("smollm2"), {"test_forward_equivalence[smollm2]": fault})
    write_report(results, tmp_path)
    assert read_report(tmp_path) == results
    assert "∞" in (tmp_path / "report.md").read_text()


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match="cannot write the report"):
        write_report(samples.passing(), tmp_path / "file" / "out")


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"schema": 1}'])
def test_a_file_that_is_not_a_report_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(RequestError, match=r"report\.json"):
        read_report(tmp_path)
