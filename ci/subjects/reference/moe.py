"""Mixture of experts in two implementations that share no data movement: looped and dropless.

Each takes tokens (N, hidden), scores and experts (N, k) and the stacked weights, and returns (N, hidden).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn.functional import linear

from ci.subjects.reference.transposed_linear import transposed_linear

if TYPE_CHECKING:
    from ci.subjects.reference.attention import ImplementationLog

    Implementation = Callable[[Tensor, "Routing", "Experts", "ImplementationLog"], Tensor]


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
        """Run one expert over its tokens (n, hidden)."""
        gate, up = linear(tokens, self.gate_up[expert]).chunk(2, dim=-1)
        return transposed_linear(self.activation(gate) * up, self.down[expert])


def route(tokens: Tensor, router: Tensor, per_token: int) -> Routing:
    """Choose the top k experts by softmax, with scores that sum to one (Mixtral).

    The softmax is in float32 at least.
    """
    logits = linear(tokens, router)
    probabilities = torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    scores, experts = probabilities.topk(per_token, dim=-1)
    return Routing(logits, experts, scores / scores.sum(-1, keepdim=True))


def looped(tokens: Tensor, routing: Routing, experts: Experts, ran: ImplementationLog) -> Tensor:
    """Gather each expert's tokens, run it, and add the weighted output back."""
    ran.add("moe", "looped")
    output = torch.zeros_like(tokens)
    for expert in range(len(experts.down)):
        token, slot = (routing.experts == expert).nonzero(as_tuple=True)
        if len(token):
            weighted = experts.run(expert, tokens[token]) * routing.scores[token, slot, None]
            output = output.index_add(0, token, weighted.to(output.dtype))
    return output


def dropless(tokens: Tensor, routing: Routing, experts: Experts, ran: ImplementationLog) -> Tensor:
    """Sort (token, slot) pairs by expert, run each segment, sort back, sum over slots.

    Experts have no capacity limit, so no token is dropped: https://arxiv.org/abs/2211.15841.
    """
    ran.add("moe", "dropless")
    per_token = routing.experts.shape[1]
    order = routing.experts.flatten().argsort(stable=True)
    counts = routing.experts.flatten().bincount(minlength=len(experts.down)).tolist()
    segments = (tokens[order // per_token]).split_with_sizes(counts)
    ordered = torch.cat([experts.run(expert, segment) for expert, segment in enumerate(segments)])
    outputs = ordered[order.argsort()].view(len(tokens), per_token, -1)
    return outputs.mul(routing.scores[..., None]).sum(1).to(tokens.dtype)


MOE: Final[dict[str, Implementation]] = {"looped": looped, "dropless": dropless}
"""The variants of the axis "moe", the default first."""
