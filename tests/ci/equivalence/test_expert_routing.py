"""Flips of experts: near ties are rounding, far ones are bugs, and the consequences spread to later tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ci.equivalence import expert_routing
from ci.tensor_names import TOP_EXPERTS

LOGITS = torch.tensor([[[3.0, 2.0, 1.999, 0.0], [3.0, 2.0, 1.0, 0.0]]])
EXPECTED = LOGITS.topk(2, dim=-1).indices
KEEP = torch.ones(1, 2, dtype=torch.bool)
GAP_LIMIT = torch.full((1, 2), 2e-3)


def test_order_within_the_choice_is_no_flip() -> None:
    flips = expert_routing.find_flips(EXPECTED.flip(-1), EXPECTED, LOGITS, keep=KEEP)
    assert not flips.where.any()
    assert float(flips.gap.max()) == 0.0


def test_a_near_tie_is_small_and_a_far_choice_is_not() -> None:
    actual = torch.tensor([[[0, 2], [0, 3]]])
    flips = expert_routing.find_flips(actual, EXPECTED, LOGITS, keep=KEEP)
    assert flips.where.tolist() == [[True, True]]
    assert torch.allclose(flips.gap, torch.tensor([[1e-3, 2.0]], dtype=torch.float64), atol=1e-6)
    assert expert_routing.find_rounding_flips(flips, GAP_LIMIT).tolist() == [[True, False]]


def test_an_expert_chosen_twice_is_no_near_tie() -> None:
    flips = expert_routing.find_flips(torch.tensor([[[0, 0], [0, 1]]]), EXPECTED, LOGITS, keep=KEEP)
    assert float(flips.gap[0, 0]) == float("inf")


@pytest.mark.parametrize("unknown", [4, 99, -1])
def test_an_expert_that_does_not_exist_is_no_near_tie(unknown: int) -> None:
    last = torch.tensor([[[0, 3], [0, 3]]]) if unknown > 0 else torch.tensor([[[1, 0], [1, 0]]])
    flips = expert_routing.find_flips(torch.where(last == last[0, 0, 1], unknown, last), last, LOGITS, keep=KEEP)
    assert flips.where.all()
    assert float(flips.gap.min()) == float("inf")


def test_ids_of_another_integer_type_are_compared_alike() -> None:
    assert not expert_routing.find_flips(EXPECTED.int(), EXPECTED, LOGITS, keep=KEEP).where.any()


def test_padding_cannot_flip() -> None:
    keep = torch.tensor([[False, True]])
    flips = expert_routing.find_flips(torch.tensor([[[3, 2], [0, 1]]]), EXPECTED, LOGITS, keep=keep)
    assert not flips.where.any()


def test_margin_is_between_the_last_in_and_the_first_out() -> None:
    flips = expert_routing.find_flips(EXPECTED, EXPECTED, LOGITS, keep=KEEP)
    assert abs(flips.margin - 1e-3) < 1e-6


def test_there_is_no_margin_where_every_expert_is_chosen_or_no_token_counts() -> None:
    everybody = LOGITS.topk(4, dim=-1).indices
    assert expert_routing.find_flips(everybody, everybody, LOGITS, keep=KEEP).margin == float("inf")
    assert expert_routing.find_flips(EXPECTED, EXPECTED, LOGITS, keep=~KEEP).margin == float("inf")


def test_a_flip_spreads_to_every_later_token_of_the_row() -> None:
    flipped = torch.tensor([[False, True, False, False], [False] * 4])
    assert expert_routing.spread_to_later_tokens(flipped).tolist() == [[False, True, True, True], [False] * 4]


def test_summary_counts_both_kinds() -> None:
    flips = expert_routing.find_flips(torch.tensor([[[0, 2], [0, 3]]]), EXPECTED, LOGITS, keep=KEEP)
    layer = expert_routing.summarize_routing(4, flips, expert_routing.find_rounding_flips(flips, GAP_LIMIT), keep=KEEP)
    assert (layer.layer, layer.tokens, layer.small_flips, layer.large_flips) == (4, 2, 1, 1)
    assert layer.largest_gap == 2.0


def test_only_real_tokens_are_counted() -> None:
    assert expert_routing.count_expert_tokens(EXPECTED, 4, keep=torch.tensor([[True, False]])).tolist() == [1, 1, 0, 0]


class Choices(dict[str, torch.Tensor]):
    """A trace of chosen experts alone."""

    def tensor(self, name: str) -> torch.Tensor:
        return self[name]


def test_experts_without_a_token_are_counted_over_all_layers() -> None:
    first, second = torch.tensor([[[0, 1], [0, 2]]]), torch.tensor([[[0, 1], [0, 1]]])
    trace: Any = Choices({f"decoder.0.{TOP_EXPERTS}": first, f"decoder.1.{TOP_EXPERTS}": second})
    keep = torch.tensor([[True, True]])
    assert expert_routing.count_idle_experts(trace, 4, keep=keep) == 1 + 2
    assert expert_routing.count_idle_experts(trace, 4, keep=torch.tensor([[True, False]])) == 2 + 2
    trace = Choices()
    assert expert_routing.count_idle_experts(trace, 4, keep=keep) is None
