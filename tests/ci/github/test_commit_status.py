"""The one status of a commit, by the rules in docs/status.md."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.github.commit_results import ModelResult
from ci.github.commit_status import MAX_DESCRIPTION_CHARS, RunUnderWay, decide_status
from ci.hub.slices import Slice

PAGE = (Path(__file__).parents[3] / "docs/status.md").read_text(encoding="utf-8")


def result(model: str, verdict: Any = "passed", started: int = 1, **changes: Any) -> ModelResult:
    known = ModelResult(model, verdict, run_id=started, started=f"2026-01-01T00:00:{started:02d}Z")
    return replace(known, **changes)


def table(first_column: str) -> list[list[str]]:
    """The rows of a table of the page."""
    (block,) = re.findall(rf"^\| {first_column} \|.*\n\|[-|]+\n((?:\|.*\n)*)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in str(block).splitlines()]


REFUSED = result("b", "neutral", refused_as_known=True)
WORST = {"required": ("missing",), "results": (result("a", "failed"), result("b", "neutral")), "problem": "503"}
RULES: dict[str, dict[str, Any]] = {
    "a run is under way that has not reported yet": WORST | {"under_way": (RunUnderWay(5, ("c",)),)},
    "a model's newest result is a failure": WORST,
    'a model\'s newest result is "no answer" (Hub, runner or service)': WORST
    | {"results": (result("a"), result("b", "neutral")), "problem": ""},
    "GitHub does not say what other runs found, or whether one is under way": WORST | {"results": (result("a"),)},
    "a required model has no result": {"required": ("a", "missing"), "results": (result("a"),)},
    "the only results are refusals that the registry knows": {
        "required": (),
        "results": (result("a", "neutral", refused_as_known=True),),
    },
    "nothing was tested": {"required": (), "results": ()},
    "every required model's newest result is green, and so is every other result": {
        "required": ("a",),
        "results": (result("a"), result("b")),
    },
}


def test_the_page_has_the_rules_in_their_order() -> None:
    assert [row[0] for row in table("what is known about the commit")] == list(RULES)


@pytest.mark.parametrize(("known", "state"), [row[:2] for row in table("what is known about the commit")])
def test_each_rule_is_what_the_page_says(known: str, state: str) -> None:
    assert decide_status(**{"required": (), "results": (), **RULES[known]}).state == state


@pytest.mark.parametrize(
    ("facts", "description"),
    [
        (
            RULES["a run is under way that has not reported yet"],
            "running: c; failed: a; no answer: b; cannot tell: 503",
        ),
        (
            RULES["a model's newest result is a failure"],
            "failed: a; no answer: b; cannot tell: 503; no result yet: missing",
        ),
        (RULES["a required model has no result"], "no result yet: missing"),
        (RULES["nothing was tested"], "no result yet"),
        ({"required": ("a",), "results": (result("a"), result("b"))}, "2 models passed: a, b"),
        ({"required": ("a",), "results": (result("a", layers=4),)}, "no result yet: a"),
        ({"required": (), "results": (result("a", "failed", layers=4),)}, "failed: a (4 layers)"),
        ({"required": ("a",), "results": (result("a", slice=Slice(4096)),)}, "no result yet: a"),
        (
            {"required": (), "results": (result("a", "failed", layers=(0, 3), slice=Slice(4096)),)},
            "failed: a (layers 0,3, vocab=4096)",
        ),
        ({"required": (), "results": (), "under_way": (RunUnderWay(5),)}, "running: run 5"),
        (
            {"required": ("a",), "results": (result("a"), REFUSED), "left_out": ("c", "b")},
            "1 model passed: a; refused, as known: b, c",
        ),
        ({"required": ("a",), "results": (), "left_out": ("c",)}, "no result yet: a; refused, as known: c"),
        ({"required": (), "results": (result("a", "failed"), REFUSED)}, "failed: a; refused, as known: b"),
    ],
)
def test_the_description_names_them(facts: dict[str, Any], description: str) -> None:
    decided = decide_status(**facts)
    assert decided.description.startswith(description)


def test_a_known_refusal_blocks_nothing_and_proves_nothing() -> None:
    assert decide_status(("a",), (result("a"), REFUSED)).state == "success"
    assert decide_status(("a", "b"), (result("a"), REFUSED)).state == "pending", "required, and the registry forgot it"
    assert decide_status((), (REFUSED,)).state == "error"
    assert decide_status((), (REFUSED, result("b", "failed", 2))).state == "failure", "a newer result is another one"
    assert decide_status((), (result("a"), replace(REFUSED, refused_as_known=False))).state == "error"
    assert decide_status((), (), left_out=("c",)).state == "pending"


def test_a_description_fits_however_many_models_there_are() -> None:
    many = tuple(result(f"a-model-with-a-long-name-{number}", "failed") for number in range(256))
    decided = decide_status([r.model for r in many], many)
    assert decided.state == "failure"
    assert len(decided.description) <= MAX_DESCRIPTION_CHARS
    assert len(decided.failed) == 256


def test_every_combination_is_green_only_if_everything_is() -> None:
    """Two models, each with no, a green, a red or a neutral result in an older and a newer run; a run under way."""
    verdicts: tuple[Any, ...] = (None, "passed", "failed", "neutral")
    for old_a, new_a, old_b, new_b in itertools.product(verdicts, repeat=4):
        given = [("a", old_a, 1), ("a", new_a, 2), ("b", old_b, 1), ("b", new_b, 2)]
        results = tuple(result(model, verdict, started) for model, verdict, started in given if verdict)
        newest = {model: verdict for model, verdict, _ in given if verdict}
        for active, order in itertools.product((False, True), (1, -1)):
            under_way = (RunUnderWay(9),) if active else ()
            state = decide_status(("a",), results[::order], under_way).state
            green = not active and newest.get("a") == "passed" and newest.get("b") in (None, "passed")
            assert (state == "success") is green, (given, active)
            if not active and "failed" in newest.values():
                assert state == "failure"
