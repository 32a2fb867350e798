"""Flipped choices of experts: only a near tie at or before a token explains its gap."""

import torch

from ci.equivalence.served_routing import find_explained_flips, find_near_ties
from ci.equivalence.served_scores import Gap

EVERYWHERE = torch.ones(1, 4, dtype=torch.bool)


def test_a_near_tie_is_between_the_last_chosen_and_the_first_left_out() -> None:
    logits = torch.tensor([[[3.0, 2.0, 1.99, 0.0], [3.0, 2.99, 0.0, -1.0]]])
    assert find_near_ties(logits, 2, torch.full((1, 2), 0.1)).tolist() == [[True, False]]
    assert find_near_ties(logits, 4, torch.full((1, 2), 0.1)).tolist() == [[False, False]]


def test_a_gap_is_explained_by_a_near_tie_before_it_and_by_no_later_one() -> None:
    gap = Gap(torch.tensor([[0.9, 0.001, 0.9, 0.9]], dtype=torch.float64), EVERYWHERE)
    quiet = Gap(torch.full((1, 4), 0.001).double(), EVERYWHERE)
    near = torch.tensor([[False, False, True, False]])
    flips = find_explained_flips(quiet, gap, near, outlier=0.1)
    assert flips.original.sum() == 0
    assert flips.export.tolist() == [[False, False, True, True]]
    assert gap.without(flips.either).tokens == 2
    assert gap.without(flips.either).largest == 0.9, "the first token's gap has no near tie: it counts"
