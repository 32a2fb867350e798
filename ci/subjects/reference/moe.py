"""Mixture of experts in two ways that share no data movement: looped and dropless.

Each takes tokens (N, hidden), scores and experts (N, k) and the stacked weights, and answers (N, hidden).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn.functional import linear

from ci.subjects.reference.product import transposed_linear

if TYPE_CHECKING:
    from ci.subjects.reference.attention import Ran

    Implementation = Callable[[Tensor, "Routing", "Experts", "Ran"], Tensor]


@dataclass(frozen=True)
class Routing:
    """Router logits (N, experts); the top k experts (N, k) of each token and their scores, which sum to one."""

    logits: Tensor
    experts: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Experts:
    """Gate and up (E, 2 * intermediate, hidden), down transposed (E, intermediate, hidden), and the activation."""

    gate_up: Tensor
    down: Tensor
    activation: Callable[[Tensor], Tensor]

    def run(self, expert: int, tokens: Tensor) -> Tensor:
        """One expert over its tokens (n, hidden)."""
        gate, up = linear(tokens, self.gate_up[expert]).chunk(2, dim=-1)
        return transposed_linear(self.activation(gate) * up, self.down[expert])


def route(tokens: Tensor, router: Tensor, per_token: int) -> Routing:
    """Softmax over all experts in float32 at least, the top k of it, scaled to sum to one (Mixtral)."""
    logits = linear(tokens, router)
    probabilities = torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    scores, experts = probabilities.topk(per_token, dim=-1)
    return Routing(logits, experts, scores / scores.sum(-1, keepdim=True))


def looped(tokens: Tensor, routing: Routing, experts: Experts, ran: Ran) -> Tensor:
    """Expert by expert: gather the tokens that chose it, run it, add the weighted answer back."""
    ran.note("moe", "looped")
    answer = torch.zeros_like(tokens)
    for expert in range(len(experts.down)):
        token, slot = (routing.experts == expert).nonzero(as_tuple=True)
        if len(token):
            weighted = experts.run(expert, tokens[token]) * routing.scores[token, slot, None]
            answer = answer.index_add(0, token, weighted.to(answer.dtype))
    return answer


def dropless(tokens: Tensor, routing: Routing, experts: Experts, ran: Ran) -> Tensor:
    """Sort all (token, slot) pairs by expert, run each contiguous segment, sort back, sum over the slots.

    No expert has a capacity, so that no token is dropped: https://arxiv.org/abs/2211.15841.
    """
    ran.note("moe", "dropless")
    per_token = routing.experts.shape[1]
    order = routing.experts.flatten().argsort(stable=True)
    counts = routing.experts.flatten().bincount(minlength=len(experts.down)).tolist()
    segments = (tokens[order // per_token]).split_with_sizes(counts)
    ordered = torch.cat([experts.run(expert, segment) for expert, segment in enumerate(segments)])
    answers = ordered[order.argsort()].view(len(tokens), per_token, -1)
    return answers.mul(routing.scores[..., None]).sum(1).to(tokens.dtype)


MOE: Final[dict[str, Implementation]] = {"looped": looped, "dropless": dropless}
"""The variants of the axis "moe", the default first."""
