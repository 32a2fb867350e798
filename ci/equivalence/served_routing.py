"""Mixtures of experts in a served model: tokens whose choice of experts rounding can flip, apart from faults.

Few engines say to which experts they sent a token. Hugging Face's router logits say where a choice is a near tie: there
two right engines may choose differently, and that token's output, and through attention all later ones of its row, may
move far beyond the noise of everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ci.equivalence.expert_routing import spread_to_later_tokens

if TYPE_CHECKING:
    from ci.equivalence.served_scores import Gap


@dataclass(frozen=True)
class ServedFlips:
    """Tokens bool (B, T) that a flip explains in the original and in the export; both lists are of scored tokens."""

    original: Tensor
    export: Tensor

    @property
    def either(self) -> Tensor:
        """The tokens that are left out of the comparison, on both sides."""
        return self.original | self.export


def find_near_ties(router_logits: Tensor, top: int, limit: Tensor) -> Tensor:
    """Return bool (B, T): the margin between the last expert chosen and the first left out is within `limit` (B, T).

    `router_logits` are those of one layer, (B, T, experts).
    """
    if top >= router_logits.shape[-1]:
        return torch.zeros(router_logits.shape[:-1], dtype=torch.bool)
    best = router_logits.double().topk(top + 1, dim=-1).values
    return (best[..., top - 1] - best[..., top]) <= limit


def find_explained_flips(original: Gap, export: Gap, near_ties: Tensor, outlier: float) -> ServedFlips:
    """Return tokens with a gap above `outlier` nats that an earlier near tie explains."""
    possible = spread_to_later_tokens(near_ties)
    return ServedFlips(*(possible & gap.where & (gap.values.abs() > outlier) for gap in (original, export)))
