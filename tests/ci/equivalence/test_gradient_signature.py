"""A wrong gradient is told by the factors of its documents, of its two uses, and of its ranks' parts."""

from __future__ import annotations

import pytest
import torch

from ci.equivalence.gradient_signature import (
    describe_balancing,
    describe_factor,
    describe_rank_parts,
    describe_shares,
    describe_uses,
    fit_shares,
)
from ci.layouts import LAYOUTS
from tests.ci.equivalence.training_steps import DOCUMENTS, GRADIENT, facts


@pytest.mark.parametrize(
    ("factors", "layout", "words"),
    [
        ((1, 1), "dp2", ""),
        ((1, 0), "dp2", "only data rank 0's documents arrive: the sum over the data ranks is missing"),
        ((1.5, 0), "dp2", "every data rank computes the documents of rank 0"),
        ((1.5, 3), "dp2", "the loss is divided by the data rank's local tokens"),
        ((0.75, 1.5), "dp2", "the loss is divided by the data rank's local tokens, then averaged over ranks"),
        ((0.75, 1.5), "accumulate2", "the loss is divided by each document's own tokens"),
        ((60, 60), "dp2", "the gradient is the sum over tokens, not their mean"),
        ((0.25, 0.5), "dp2", "each document's gradient is clipped before the sum"),
        ((0, 1), "accumulate2", "only the last micro-batch's gradient arrives"),
        ((2, 1), "accumulate2", "its documents count 2, 1 times"),
        ((2, 2), "accumulate2", "it has 2 times its size: it is summed over micro-batches"),
    ],
)
def test_documents_are_told_by_their_factors(factors: tuple[float, float], layout: str, words: str) -> None:
    actual = factors[0] * DOCUMENTS[0] + factors[1] * DOCUMENTS[1]
    shares = fit_shares(actual, DOCUMENTS)
    assert shares is not None
    assert shares == pytest.approx(factors, abs=1e-5)
    told = describe_shares(shares, facts(layout))
    assert told.startswith(words) if words else told == ""


def test_a_gradient_of_something_else_is_not_explained() -> None:
    assert fit_shares(torch.randn(6, 4), DOCUMENTS) is None
    assert fit_shares(torch.full((6, 4), float("nan")), DOCUMENTS) is None
    assert fit_shares(torch.ones(2), DOCUMENTS) is None


def test_the_balancing_loss_and_tied_uses_are_told() -> None:
    assert describe_balancing(1.0, 2) == ""
    assert "summed over the 2 documents" in describe_balancing(2.0, 2)
    assert "no gradient" in describe_balancing(0.0, 2)
    assert "3 times" in describe_balancing(3.0, 2)
    assert describe_uses(1, 1) == ""
    assert describe_uses(1, 0).startswith("only the lookup's part")
    assert describe_uses(0, 1).startswith("only the head's part")
    assert "2 times" in describe_uses(2, 1)


def test_a_rank_that_is_lost_scaled_or_swapped_is_told() -> None:
    lost = torch.cat([GRADIENT[:3], torch.zeros(3, 4)])
    assert describe_rank_parts(lost, GRADIENT, 2) == "only rank 0's rows arrive"
    scaled = torch.cat([GRADIENT[:, :2], 2 * GRADIENT[:, 2:]], 1)
    assert describe_rank_parts(scaled, GRADIENT, 2) == "the columns of the tensor ranks have 1, 2 times their size"
    swapped = torch.cat([GRADIENT[3:], GRADIENT[:3]])
    assert "wrong order" in describe_rank_parts(swapped, GRADIENT, 2)
    assert describe_rank_parts(GRADIENT, GRADIENT, 2) == ""


def test_one_factor_is_told_with_what_has_that_size() -> None:
    assert describe_factor(GRADIENT, GRADIENT, LAYOUTS["tp2"]) == ""
    assert describe_factor(2 * GRADIENT, GRADIENT, LAYOUTS["tp2"]).endswith("each tensor rank counts it once")
    assert describe_factor(0 * GRADIENT, GRADIENT, LAYOUTS["tp2"]) == "it is zero"
    assert describe_factor(-GRADIENT, GRADIENT, LAYOUTS["tp2"]).endswith("it has the wrong sign")
