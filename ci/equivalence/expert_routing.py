"""Mixtures of experts: where the choice of experts differs, by how much, and which tokens rounding excuses.

A choice that flips where two experts score alike is rounding; the same flip where their scores are far apart is a bug.
A flip by rounding changes the token's whole MLP output, and through attention every later token of its sequence.
These tokens do not count from there on. A wider tolerance instead would hide real errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ci.evidence import LayerRouting
from ci.tensor_names import TOP_EXPERTS

if TYPE_CHECKING:
    from ci.subjects.trace_files import TraceReader


@dataclass(frozen=True)
class ExpertFlips:
    """Choices of experts that differ in one layer.

    `where` is bool (B, T). `gap` is float64 (B, T): by how much the expected logits favour the expected experts over
    those chosen instead, 0 where nothing flipped. `margin` is the smallest distance between the last expert chosen
    and the first one left out among the real tokens, in logits.
    """

    where: Tensor
    gap: Tensor
    margin: float


def find_flips(actual: Tensor, expected: Tensor, logits: Tensor, *, keep: Tensor) -> ExpertFlips:
    """Compare chosen experts, int64 (B, T, k), as sets.

    `logits` (B, T, experts) are the expected ones.
    """
    chosen, wanted = _to_one_hot(actual, logits.shape[-1]), _to_one_hot(expected, logits.shape[-1])
    where = (chosen != wanted).any(-1) & keep
    scores = logits.double()
    lost = scores.masked_fill(~(wanted & ~chosen), -torch.inf).amax(-1)
    won = scores.masked_fill(~(chosen & ~wanted), torch.inf).amin(-1)
    gap = torch.where(where, lost - won, torch.zeros_like(lost))
    gap = gap.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)  # a set that only shrank is no near tie
    return ExpertFlips(where, gap, _find_smallest_margin(scores, expected.shape[-1], keep))


def find_rounding_flips(flips: ExpertFlips, gap_limit: Tensor) -> Tensor:
    """Return bool (B, T): the flips that rounding explains, their gap within `gap_limit` (B, T)."""
    return flips.where & (flips.gap <= gap_limit)


def summarize_routing(layer: int, flips: ExpertFlips, excused: Tensor, *, keep: Tensor) -> LayerRouting:
    """Return the compact record of one layer."""
    large = flips.where & ~excused
    return LayerRouting(
        layer=layer,
        tokens=int(keep.sum()),
        small_flips=int(excused.sum()),
        large_flips=int(large.sum()),
        largest_gap=float(flips.gap.max()),
        smallest_margin=flips.margin,
    )


def count_expert_tokens(top_experts: Tensor, experts: int, *, keep: Tensor) -> Tensor:
    """Count the kept tokens that each expert received: int64 (experts,)."""
    return torch.bincount(top_experts[keep].flatten(), minlength=experts)


def count_idle_experts(trace: TraceReader, experts: int, *, keep: Tensor) -> int | None:
    """Count the experts of all layers that received no token.

    None where the routing was not captured.
    """
    choices = [trace.tensor(name) for name in trace if name.endswith(TOP_EXPERTS)]
    counts = [count_expert_tokens(choice, experts, keep=keep) for choice in choices]
    return sum(int((count == 0).sum()) for count in counts) if counts else None


def spread_to_later_tokens(flipped: Tensor) -> Tensor:
    """Mark every later token of a sequence too: through attention it has seen the flipped one."""
    return flipped.long().cummax(-1).values.bool()


def _to_one_hot(experts: Tensor, count: int) -> Tensor:
    """Return bool (B, T, count); an expert that does not exist is in no set."""
    hot = torch.zeros(*experts.shape[:-1], count + 1, dtype=torch.bool, device=experts.device)
    known = (experts >= 0) & (experts < count)
    return hot.scatter_(-1, torch.where(known, experts, count).long(), True)[..., :count]


def _find_smallest_margin(scores: Tensor, k: int, keep: Tensor) -> float:
    if k >= scores.shape[-1] or not bool(keep.any()):
        return float("inf")
    best = scores.topk(k + 1, dim=-1).values
    return float((best[..., k - 1] - best[..., k])[keep].min())
