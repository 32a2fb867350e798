"""A wrong gradient norm is told by the wrong sum of squares that gives it."""

from __future__ import annotations

import pytest

from ci.equivalence.norm_signature import GradientSquares, describe_norm
from ci.layouts import LAYOUTS

SQUARES = GradientSquares(total=100.0, whole=10.0, limit=5.0, embeddings=30.0, parts=(60.0, 50.0), stages=(70.0, 30.0))


@pytest.mark.parametrize(
    ("square", "layout", "words"),
    [
        (110, "tp2", "holds count once a rank"),
        (90, "tp2", "are left out"),
        (50, "tp2", "only tensor rank 1's part"),
        (70, "pp2", "only stage 0's parameters"),
        (130, "pp2_tied", "count on both stages"),
        (200, "dp2", "counted once for each of the 2 data ranks"),
        (25, "single", "after clipping"),
        (10000, "single", "square of the norm"),
    ],
)
def test_a_wrong_sum_is_told(square: float, layout: str, words: str) -> None:
    assert words in describe_norm(square**0.5, SQUARES, LAYOUTS[layout])


def test_the_right_norm_and_an_unknown_one_are_not() -> None:
    assert describe_norm(10.0, SQUARES, LAYOUTS["tp2"]) == ""
    assert describe_norm(7.7, SQUARES, LAYOUTS["tp2"]) == ""
