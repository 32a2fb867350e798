"""Greedy continuations: the first difference of each row counts, and only if it is no tie."""

from __future__ import annotations

import math

import pytest
import torch

from ci.consumers.score_files import Continuation
from ci.equivalence.served_greedy import count_equal_tokens, find_divergences


def make_continuation(ids: list[list[int]], second: int = 9, distance: float = 0.5) -> Continuation:
    """Each token is `distance` nats more likely than the token `second`."""
    chosen = torch.tensor(ids)
    top_ids = torch.stack([chosen, torch.full_like(chosen, second)], -1)
    top = torch.tensor([-1.0, -1.0 - distance]).expand(*chosen.shape, 2)
    return Continuation(chosen, top_ids, top)


def test_only_the_first_difference_of_a_row_counts() -> None:
    expected, actual = (
        make_continuation([[1, 2, 3], [4, 5, 6]], second=8),
        make_continuation([[1, 8, 8], [4, 5, 6]], 2, 0.7),
    )
    (found,) = find_divergences(actual, expected)
    assert (found.row, found.step, found.expected, found.actual) == (0, 1, 2, 8)
    assert found.distance == pytest.approx(0.7), "the larger one of what the two sides say"
    assert str(found) == "row 0, token 1: 8 instead of 2, which is 0.7 nats more likely"
    assert count_equal_tokens(actual, expected) == 4


def test_equal_continuations_have_no_difference() -> None:
    same = make_continuation([[1, 2], [3, 4]])
    assert find_divergences(same, same) == ()
    assert count_equal_tokens(same, same) == 4


def test_a_token_that_the_other_side_does_not_list_is_no_tie() -> None:
    (found,) = find_divergences(make_continuation([[7]]), make_continuation([[1]]))
    assert found.distance == math.inf
