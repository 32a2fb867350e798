"""Routing by hand, and both implementations against every expert run on every token."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from ci.subjects.reference.attention import ImplementationLog
from ci.subjects.reference.moe import MOE, Experts, Routing, route


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("name", MOE)
@pytest.mark.parametrize(("count", "per_token", "tokens"), [(5, 2, 33), (4, 4, 7), (8, 1, 3), (3, 2, 1)])
def test_each_implementation_sums_the_chosen_experts(name: str, count: int, per_token: int, tokens: int) -> None:
    hidden, experts = draw(tokens, 12), Experts(draw(count, 20, 12), draw(count, 10, 12), silu)
    routing, ran = route(hidden, draw(count, 12), per_token), ImplementationLog()
    every = torch.stack([experts.run(expert, hidden) for expert in range(count)], dim=1)
    weights = torch.zeros(tokens, count, dtype=torch.float64).scatter(1, routing.experts, routing.scores)
    answer = MOE[name](hidden, routing, experts, ran)
    torch.testing.assert_close(answer, (every * weights[..., None]).sum(1), rtol=1e-10, atol=1e-12)
    assert ran == {"moe": name}


@pytest.mark.parametrize("name", MOE)
def test_an_expert_that_nobody_chose_is_no_problem(name: str) -> None:
    hidden, experts = draw(6, 12), Experts(draw(4, 20, 12), draw(4, 10, 12), silu)
    routing = Routing(draw(6, 4), torch.full((6, 1), 2), torch.ones(6, 1, dtype=torch.float64))
    assert MOE[name](hidden, routing, experts, ImplementationLog()).allclose(experts.run(2, hidden))


def test_scores_are_of_the_top_experts_highest_first_and_sum_to_one() -> None:
    routing = route(torch.eye(3), torch.tensor([[0.0, 3, 1], [2.0, 1, 1], [1.0, 2, 1], [-1.0, 0, 1]]).clone(), 2)
    assert routing.logits[0].tolist() == [0, 2, 1, -1]
    assert routing.experts[:2].tolist() == [[1, 2], [0, 2]]
    assert routing.scores.sum(-1).allclose(torch.ones(3))
    assert routing.scores[0].allclose(torch.tensor([2.0, 1.0]).softmax(0))
    assert route(torch.eye(3).bfloat16(), torch.zeros(4, 3).bfloat16(), 2).scores.dtype == torch.float32
