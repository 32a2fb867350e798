"""A wrong loss is told by the wrong sum that gives it."""

from __future__ import annotations

import pytest
import torch

from ci.equivalence.loss_signature import TokenLosses, describe_loss
from ci.layouts import LAYOUTS

TOKENS = TokenLosses(
    [torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 5.0])], [torch.tensor([1, 1, 0]), torch.tensor([1, 0])]
)


def test_the_right_loss_is_the_mean_over_all_counted_tokens() -> None:
    assert TOKENS.right == 2.0
    assert describe_loss(2.0, TOKENS, LAYOUTS["dp2"]) == ""
    assert describe_loss(2.0 + 1e-3, TOKENS, LAYOUTS["dp2"]) == ""


@pytest.mark.parametrize(
    ("loss", "layout", "words"),
    [
        (3.0, "single", "mask is ignored"),
        (6 / 5, "single", "counted in the divisor"),
        (15 / 3, "single", "not in the divisor"),
        (2.25, "accumulate2", "mean of the documents' means"),
        (4.5, "accumulate2", "summed over documents"),
        (1.5, "dp2", "computes the documents of rank 0"),
        (1.0, "dp2", "only data rank 0's documents"),
        (2.25, "dp2", "local tokens, then averaged"),
        (4.0, "tp2", "2 times as large"),
    ],
)
def test_a_wrong_sum_is_told(loss: float, layout: str, words: str) -> None:
    assert words in describe_loss(loss, TOKENS, LAYOUTS[layout])
