"""The order of a replay, on a tiny repository and with a judge that reads one line instead of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.mutation.tiny_models import TINY_MODELS
from benchmarks.replay.__main__ import main, read_options, replay
from benchmarks.replay.records import Finding, Pair, PairResult, Place, Substitution
from benchmarks.replay.recreation import copy_checkout, run_git
from benchmarks.replay.results import describe_result, meets_targets

if TYPE_CHECKING:
    from pathlib import Path

MODEL = TINY_MODELS["dense"]
PLACE = Place(("query",), "kernel")


class LineReader:
    """Stands for the judge: red where the scratch copy's `factor` is wrong."""

    def __init__(self) -> None:
        self.judged: list[str] = []

    def judge_state(self, pair: Pair, checkout: Path) -> Finding:
        """Read the factor."""
        line = (checkout / "factor.py").read_text()
        self.judged.append(line.strip())
        if "2" in line:
            return Finding("float32", passed=True)
        return Finding("float32", False, "numeric_mismatch", "query", 0, "kernel", "layer 0, query [kernel]")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    run_git(source, "init", "-q")
    (source / "factor.py").write_text("factor = 2\n")
    run_git(source, "add", "-A")
    run_git(source, "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-qm", "fixed")
    return copy_checkout(source, tmp_path / "copy")


def make_pair(name: str, pattern: str, replacement: str) -> Pair:
    return Pair(name, "abc", "a factor", (Substitution("factor.py", pattern, replacement),), MODEL, place=PLACE)


def run(copy: Path, reader: LineReader, *pairs: Pair) -> list[PairResult]:
    return list(replay(list(pairs), copy, reader))  # type: ignore[arg-type]


def test_a_pair_is_red_with_the_bug_and_green_without_it(copy: Path) -> None:
    (result,) = run(copy, LineReader(), make_pair("wrong", "2", "3"))
    assert result.ran
    assert (result.red_before, result.green_after, result.located) == (True, True, True)
    assert meets_targets([result])


def test_the_fixed_state_of_one_model_is_judged_once(copy: Path) -> None:
    reader = LineReader()
    run(copy, reader, make_pair("first", "2", "3"), make_pair("second", "2", "4"))
    assert reader.judged == ["factor = 3", "factor = 2", "factor = 4"]


def test_an_edit_that_does_not_fit_is_never_green(copy: Path) -> None:
    reader = LineReader()
    (result,) = run(copy, reader, make_pair("moved", "scale", "3"))
    assert not (result.ran)
    assert not (result.red_before)
    assert not (result.green_after)
    assert not (result.located)
    assert "could not run: factor.py has changed: /scale/ matches 0 times" in describe_result(result)
    assert reader.judged == []
    assert not meets_targets([result])


def test_a_bug_that_the_judge_misses_misses_the_target(copy: Path) -> None:
    (result,) = run(copy, LineReader(), make_pair("harmless", "2", "2.0"))
    assert result.ran
    assert not result.red_before
    assert not meets_targets([result])
    assert "before green" in describe_result(result)


def test_a_pair_after_one_that_failed_starts_from_the_commit(copy: Path) -> None:
    (copy / "factor.py").write_text("factor = 5\n")
    run_git(copy, "checkout", "factor.py")
    moved = Pair(
        "half", "abc", "a", (Substitution("factor.py", "2", "3"), Substitution("factor.py", "none", "")), MODEL
    )
    reader = LineReader()
    run(copy, reader, moved, make_pair("wrong", "2", "4"))
    assert reader.judged == ["factor = 4", "factor = 2"]


def test_an_unknown_name_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(["--source", ".", "--python", "python", "no-such-pair"])
    assert "unknown pairs: no-such-pair" in capsys.readouterr().err


def test_pairs_without_a_place_in_the_code_need_no_judge(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--source", str(copy), "--python", "python", "--out", str(tmp_path / "out"), "rotary-2d", "llava"]
    assert main(words) == 1
    assert "2 pairs, 0 ran" in capsys.readouterr().out
    assert main([*words[:-2], "dream-export"]) == 1
    assert "3 pairs, 0 ran" in capsys.readouterr().out
    assert "only the vision encoder" in (tmp_path / "out" / "replay.md").read_text()
