"""A layout that did not run is found by its ranks, their groups and what they held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.equivalence.layout_proof import describe_layout, list_layout_problems
from ci.layouts import LAYOUTS
from ci.subjects.training import RankReport, TrainResult

RANKS = tuple(RankReport(r, {"tensor": (0, 1)}, "cpu", {"a": (4, 2), "b": (4,)}) for r in range(2))
RIGHT = TrainResult((1.0,), ({},), (1.0,), RANKS, "gloo", {"layout": "tp2"}, 1.0)
ALONE = tuple(replace(rank, groups={}) for rank in RANKS)
WHOLE = tuple(replace(rank, parameters={"a": (8, 2), "b": (4,)}) for rank in RANKS)
EMPTY = tuple(replace(rank, parameters={}) for rank in RANKS)


def test_a_layout_that_ran_is_told_in_one_line() -> None:
    assert list_layout_problems(LAYOUTS["tp2"], RIGHT, 20) == []
    assert describe_layout(LAYOUTS["tp2"], RIGHT) == "tp2: 2 ranks on cpu over gloo; rank 0 is in tensor 0, 1"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ran": {"layout": "single"}}, "single ran instead"),
        ({"ran": {}}, "nothing reported ran instead"),
        ({"ranks": RANKS[:1]}, "1 ranks reported, expected 2"),
        ({"backend": ""}, "no library of collectives"),
        ({"ranks": ALONE}, "rank 0 is in a tensor group of 1, expected 2"),
        ({"ranks": WHOLE}, "rank 0 held 20 elements, all 20 of the model"),
        ({"ranks": EMPTY}, "rank 0 does not say what it held"),
    ],
)
def test_what_contradicts_the_layout_is_a_problem(changes: dict[str, Any], words: str) -> None:
    assert words in "; ".join(list_layout_problems(LAYOUTS["tp2"], replace(RIGHT, **changes), 20))


def test_stages_that_hold_the_same_are_a_problem() -> None:
    ranks = tuple(replace(rank, groups={"pipeline": (0, 1)}) for rank in RANKS)
    result = replace(RIGHT, ranks=ranks, ran={"layout": "pp2"})
    assert "every stage" in "; ".join(list_layout_problems(LAYOUTS["pp2"], result, 20))
