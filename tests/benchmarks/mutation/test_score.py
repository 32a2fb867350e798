"""The score: counted from real injections, and a table that says what was counted."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.mutation import catalogue as catalogue_module
from benchmarks.mutation import score as score_module
from benchmarks.mutation.experiment import ROUND_TRIP, MutationResult
from benchmarks.mutation.score import Control, MutationOptions, MutationScore, run_mutation_score, to_markdown
from ci.errors import RequestError

FEW = ("two experts swapped without the router", "router scores in reverse")


def test_a_few_bugs_are_injected_caught_located_and_attributed(monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(bug for bug in catalogue_module.catalogue() if bug.name in FEW)
    monkeypatch.setattr(catalogue_module, "catalogue", lambda: few)
    monkeypatch.setattr(score_module, "CHUNKS", 1)
    lines: list[str] = []
    monkeypatch.setattr(catalogue_module, "deep_catalogue", lambda: ())
    score = run_mutation_score(MutationOptions(("moe",), seeds=0, rewrite_seeds=0), progress=lines.append)
    assert lines == ["moe: 2 bugs injected, part 1 of 1"]
    assert [result.mutation for result in score.results] == [bug.name for bug in few]
    assert score.caught == score.located == score.attributed == len(score.real) == 2
    swapped = score.real[0]
    assert swapped.rules[ROUND_TRIP] is False
    assert "expert" in swapped.diagnosis


def result(**rest: Any) -> MutationResult:
    known: dict[str, Any] = {"tiny_model": "dense", "mutation": "x", "bug_class": "y", "component": "kernel"}
    return MutationResult(**{**known, "equivalent": False, **rest})


def test_the_table_counts_what_counts() -> None:
    score = MutationScore(
        results=(
            result(caught_float32=True, located=True, attributed_to="kernel", rules={"theirs": True}),
            result(caught_native_dtype=True, attributed_to="conversion", rules={"theirs": False}),
            result(caught_deep=True, located=True, attributed_to="kernel", precision_warnings=1),
            result(equivalent=True, tiny_model="moe"),
        ),
        rewrites=(Control("dense", 0, "float32", "heads reversed", True, 0.5),),
        controls=(Control("dense", 0, "float32", "default", True, 0.25),) * 3,
        rule_false_alarms={"theirs": 2, "ours": 0},
    )
    assert to_markdown(score).splitlines() == [
        "| rule | dense (3) | all (3) |",
        "|---|---|---|",
        "| theirs | 1 | 1 |",
        "| hub-tests: float32 tolerance | 1 | 1 |",
        "| hub-tests: native-dtype tolerance | 1 | 1 |",
        "| hub-tests: both tolerances | 2 | 2 |",
        "| **hub-tests: both tolerances and --deep** | 3 | 3 |",
        "| hub-tests: told by a precision warning | 1 | 1 |",
        "",
        "3 injected bugs count; 1 more do not change Hugging Face's logits.",
        "Caught 3, 1 of them by a check of --deep alone.",
        "Located in the correct layer and module: 2 of 3 (66.7%). Correct component: 2 of 3 (66.7%).",
        "3 correct conversions and 1 equal rewrites tested: 0 false alarms.",
        "Their worst tensor used 50% of its tolerance.",
        "Of 6 correct conversions, theirs fails 2.",
    ]


def test_a_false_alarm_is_counted() -> None:
    score = MutationScore((), (Control("dense", 0, "float32", "default", False, 1.5, "why"),))
    assert [control.diagnosis for control in score.false_alarms] == ["why"]


def test_an_unknown_tiny_model_is_one_line() -> None:
    with pytest.raises(RequestError, match="no tiny model 'bert'; choose from dense, "):
        run_mutation_score(MutationOptions(("bert",)))


def test_a_bug_that_only_deep_can_catch_passes_the_default_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = "layers in the order of text"
    monkeypatch.setattr(score_module, "CHUNKS", 1)
    score = run_mutation_score(MutationOptions(("dense",), seeds=0, rewrite_seeds=0, bugs=(wanted,)))
    (found,) = score.real
    assert (found.mutation, found.caught, found.caught_deep, found.shown_by) == (wanted, False, True, "layer order")
    assert found.located
    assert found.attributed_to == "conversion"


def test_an_equal_rewrite_that_fails_is_a_false_alarm() -> None:
    score = MutationScore((), (), (Control("dense", 0, "float32", "heads reversed", False, 1.5, "why"),))
    assert [control.variant for control in score.false_alarms] == ["heads reversed"]
