"""The search for the first bad candidate: each one is found, within the promised number of runs."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest

from ci.bisect.search import Search, limit_runs

if TYPE_CHECKING:
    from ci.bisect.search import Answer


def search(size: int, first_bad: int, unbuildable: frozenset[int] = frozenset()) -> Search:
    """Runs a search over numbered candidates to its end."""
    known: dict[str, Answer] = {}
    candidates = tuple(map(str, range(size)))
    while (chosen := Search(candidates, known).choose_next()) is not None:
        assert chosen not in known, "no candidate is run twice"
        at = int(chosen)
        known[chosen] = "skip" if at in unbuildable else "bad" if at >= first_bad else "good"
    return Search(candidates, known)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 9, 31, 64, 100])
def test_every_first_bad_candidate_is_found_in_time(size: int) -> None:
    for first_bad in range(size):
        done = search(size, first_bad)
        assert done.find_culprits() == (str(first_bad),)
        assert done.count_runs() <= math.ceil(math.log2(size)) + 1 == limit_runs(size)


def test_a_candidate_without_an_answer_costs_one_run() -> None:
    chosen = random.Random(7)
    for _ in range(300):
        size = chosen.randint(2, 60)
        first_bad = chosen.randrange(size)
        unbuildable = frozenset(chosen.sample(range(size - 1), chosen.randint(0, (size - 1) // 2)))
        done = search(size, first_bad, unbuildable)
        skipped = sum(answer == "skip" for answer in done.answers.values())
        assert done.count_runs() <= math.ceil(math.log2(size)) + 1 + skipped
        assert str(first_bad) in done.find_culprits()
        untestable = {int(one) for one in done.find_culprits()[:-1]}
        assert untestable <= unbuildable, "what is left beside the answer could not be built"


def test_the_bad_end_is_tried_first() -> None:
    assert Search(("a", "b", "c")).choose_next() == "c"
    assert Search(("a", "b", "c"), {"c": "bad"}).choose_next() == "a"


def test_what_is_left_is_counted() -> None:
    assert Search(tuple("abcdefgh")).count_left() == 4
    assert Search(tuple("abcdefgh"), {"h": "bad"}).count_left() == 3
    assert Search(("a",), {"a": "bad"}).count_left() == 0
