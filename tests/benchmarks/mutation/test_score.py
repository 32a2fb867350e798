"""The score: counted from real plantings, and a table that says what was counted."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.mutation import catalogue as shelf
from benchmarks.mutation import score as mutate
from benchmarks.mutation.experiment import ROUND_TRIP, Outcome
from benchmarks.mutation.score import Control, MutationOptions, MutationScore, markdown, run_mutation_score
from ci.errors import RequestError

FEW = ("two experts swapped without the router", "router scores in reverse")


def test_a_few_bugs_are_planted_caught_located_and_attributed(monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(bug for bug in shelf.catalogue() if bug.name in FEW)
    monkeypatch.setattr(shelf, "catalogue", lambda: few)
    monkeypatch.setattr(mutate, "CHUNKS", 1)
    heard: list[str] = []
    score = run_mutation_score(MutationOptions(("moe",), seeds=0), progress=heard.append)
    assert heard == ["moe: 2 bugs planted, part 1 of 1"]
    assert [outcome.mutation for outcome in score.outcomes] == [bug.name for bug in few]
    assert score.caught == score.located == score.half_right == len(score.real) == 2
    swapped = score.real[0]
    assert swapped.rules[ROUND_TRIP] is False
    assert "expert" in swapped.said


def outcome(**rest: Any) -> Outcome:
    known: dict[str, Any] = {"specimen": "dense", "mutation": "x", "bug_class": "y", "half": "kernel"}
    return Outcome(**{**known, "equivalent": False, **rest})


def test_the_table_counts_what_counts() -> None:
    score = MutationScore(
        outcomes=(
            outcome(gate_a=True, located=True, half_named="kernel", rules={"theirs": True}),
            outcome(gate_b=True, half_named="conversion", rules={"theirs": False}),
            outcome(equivalent=True, specimen="moe"),
        ),
        controls=(Control("dense", 0, "float32", "default", True, 0.25),) * 3,
        rule_alarms={"theirs": 2, "ours": 0},
    )
    assert markdown(score).splitlines() == [
        "| rule | dense (2) | all (2) |",
        "|---|---|---|",
        "| theirs | 1 | 1 |",
        "| hub-tests: Gate A, float32 | 1 | 1 |",
        "| hub-tests: Gate B, the model's dtype | 1 | 1 |",
        "| **hub-tests: both gates** | 2 | 2 |",
        "",
        "2 planted bugs count; 1 more do not change Hugging Face's answer.",
        "Caught 2. Located in the right layer and module: 1 of 2 (50.0%). Laid to the right half: 1 of 2 (50.0%).",
        "3 right conversions judged: 0 false alarms.",
        "The tensor of theirs that came closest to its limit used 25% of it.",
        "Of 6 right conversions, theirs fails 2.",
    ]


def test_a_false_alarm_is_counted() -> None:
    score = MutationScore((), (Control("dense", 0, "float32", "default", False, 1.5, "why"),))
    assert [control.said for control in score.false_alarms] == ["why"]


def test_an_unknown_specimen_is_one_line() -> None:
    with pytest.raises(RequestError, match="no specimen 'bert'; choose from dense, "):
        run_mutation_score(MutationOptions(("bert",)))
