"""The table of special paths: two bugs or more in each, and rows that are those of the bugs that there are."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from benchmarks import special_paths
from benchmarks.special_paths import (
    BEGIN,
    CONTROL_DTYPE,
    END,
    Counts,
    JudgeFactory,
    PlantedSubject,
    show_table,
    sum_counts,
    write_page,
)
from ci.subjects.fast_llm.offer import OFFER
from ci.subjects.reference import trace as trace_module
from ci.subjects.reference.subject import ReferenceSubject
from tests.ci.subjects.reference.planting import PlantedBug
from tests.ci.subjects.reference.special_paths import SpecialPath, list_bugs, list_paths

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from ci.equivalence.verdict import Verdict

ROW = re.compile(
    r"^\| (?P<path>[^|*]+) \| [^|]+ \| (?P<planted>\d+) \| (?P<caught>\d+) \| (?P<located>\d+) \|$", re.MULTILINE
)
FEWEST, LOCATED = 2, 0.95


def read_rows(text: str) -> dict[str, tuple[int, int, int]]:
    return {row["path"]: (int(row["planted"]), int(row["caught"]), int(row["located"])) for row in ROW.finditer(text)}


def test_each_path_has_two_bugs_and_each_format_a_path() -> None:
    paths = list_paths()
    assert all(path.name for path in paths)
    assert {path.name: len(path.bugs) for path in paths if len(path.bugs) < FEWEST} == {}
    assert sum(len(path.bugs) for path in paths) == len(list_bugs()) >= 40
    assert {name for path in paths for name in path.formats.split(", ")} == set(OFFER.formats)
    assert len({str(bug) for bug in list_bugs()}) == len(list_bugs())


def test_the_page_is_of_the_bugs_that_there_are() -> None:
    rows = read_rows(special_paths.PAGE.read_text(encoding="utf-8"))
    assert {name: planted for name, (planted, _, _) in rows.items()} == {p.name: len(p.bugs) for p in list_paths()}
    planted, caught, located = (sum(numbers) for numbers in zip(*rows.values(), strict=True))
    assert caught == planted
    assert located >= LOCATED * planted
    assert re.search(r"Controls: \d+ models .*: 0 red\.", special_paths.PAGE.read_text(encoding="utf-8"))


def make_bug(name: str = "bug") -> PlantedBug:
    return PlantedBug("case", name, lambda _: None, "mixer.query", "a path")


def make_verdict(**parts: Any) -> Verdict:
    return SimpleNamespace(**parts)  # type: ignore[return-value]


def test_only_the_operation_of_the_bug_counts_as_located() -> None:
    counts = Counts(SpecialPath("a path", (make_bug(),) * 4))
    counts.add(make_bug(), make_verdict(passed=False, tensor="decoder.1.mixer.query"))
    counts.add(make_bug("elsewhere"), make_verdict(passed=False, tensor="decoder.1.mixer.key"))
    counts.add(make_bug("unseen"), make_verdict(passed=True, tensor=""))
    counts.add(make_bug("nowhere"), make_verdict(passed=False, tensor=""))
    assert (counts.caught, counts.located) == (3, 1)
    assert counts.missed == [
        "case: elsewhere: mixer.key, not mixer.query",
        "case: unseen: passed",
        "case: nowhere: , not mixer.query",
    ]
    assert sum_counts([counts, counts]) == (8, 6, 2)


def test_a_table_goes_between_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpecialPath, "formats", "llama")
    counts = Counts(SpecialPath("a path", (make_bug(),)), caught=1, located=1)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_page(show_table([counts], 1, [], 60.0), page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\n| special path |")
    assert text.endswith(f"\n\n{END}\nafter\n")
    assert read_rows(text) == {"a path": (1, 1, 1)}
    assert "0 red." in text
    assert "old" not in text


def test_a_bug_is_there_for_one_trace_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(ReferenceSubject, "trace", lambda *_: seen.append(trace_module.load_model))
    bug = PlantedBug("case", "bug", lambda patch: patch.setattr(trace_module, "load_model", "planted"), "")
    right: Any = trace_module.load_model
    PlantedSubject(bug).trace(None)  # type: ignore[arg-type]
    assert seen == ["planted"]
    assert trace_module.load_model is right


def test_the_controls_are_published_in_another_dtype_than_float32(tmp_path: Path) -> None:
    judge = JudgeFactory(tmp_path / "controls", CONTROL_DTYPE).open("mistral", ReferenceSubject())
    assert judge.reference.model_dtype == CONTROL_DTYPE != "float32"
