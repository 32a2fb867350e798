from __future__ import annotations

import gc
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.report import figures, words
from ci.report.bulk import bulk
from ci.report.links import is_link, link
from ci.report.reproduce import reproduce
from ci.report.write import read_report, write_report
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
    results = samples.judged(samples.plan_of("smollm2"), {"test_forward_equivalence[smollm2]": fault})
    write_report(results, tmp_path)
    assert read_report(tmp_path) == results
    assert "∞" in (tmp_path / "report.md").read_text()


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match="cannot write the report"):
        write_report(samples.passing(), tmp_path / "file" / "out")


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"schema": 1}'])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(RequestError, match=r"report\.json"):
        read_report(tmp_path)


def test_bulk_gives_the_collector_back() -> None:
    seen = []
    with suppress(ZeroDivisionError), bulk():
        seen.append(gc.isenabled())
        raise ZeroDivisionError
    assert seen == [False]
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://github.com/org/repo/actions/runs/1/job/2#step:3:4", False),
        ("https://github.com/org/repo/actions/runs/1/job/2", True),
        ("https://ghe.example:8443/a/b?c=d&e=f", True),
        ("http://github.com", False),
        ("https://a b", False),
        ("https://a/)[x](y", False),
        ("https://u:p@a/", False),
        ("javascript:alert(1)", False),
        ('https://a/"onclick=', False),
        ("", False),
    ],
)
def test_links(url: str, good: bool) -> None:
    assert is_link(url) == good
    assert link("x", url) == (f"[x]({url})" if good else "")


def test_the_command_to_reproduce_carries_what_the_plan_says() -> None:
    plan = samples.plan_of("mixtral", layers="auto", deep=True, subject="fast_llm")
    case = samples.judged(plan).entries[0].cases[0]
    assert (
        reproduce(plan, "mixtral", case)
        == "hub-tests run mixtral --layers auto --subject fast_llm --device cuda --deep"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (42, "42 s"), (119, "119 s"), (200, "3 min"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert figures.duration(seconds) == text


@pytest.mark.parametrize(
    ("used", "before", "text"),
    [
        (0.1, 0.04, "used 10 % of the tolerance, was 4 %"),
        (0.001, None, "used <1 % of the tolerance"),
        (2.5, None, "used 250 % of the tolerance"),
        (4000.0, 0.1, "4,000 x the tolerance, was 10 %"),
        (3e9, None, "3.0e+09 x the tolerance"),
        (float("inf"), None, "∞ the tolerance"),
        (None, 0.1, ""),
    ],
)
def test_margins(used: float | None, before: float | None, text: str) -> None:
    assert figures.margin(used, before) == text


@pytest.mark.parametrize(
    ("sentence", "limit", "first", "rest"),
    [
        ("", 10, "", ""),
        ("layer 0: wrong", 5, "layer 0: wrong", ""),
        ("aa; bb; cc", 6, "aa; bb", "cc"),
        ("aa; bb; cc", 5, "aa", "bb; cc"),
        ("aa; bb; cc", 99, "aa; bb; cc", ""),
    ],
)
def test_a_diagnosis_is_cut_between_its_clauses(sentence: str, limit: int, first: str, rest: str) -> None:
    assert words.brief(sentence, limit) == (first, rest)
