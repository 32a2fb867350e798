"""Mixtures of experts: whose choice of experts differs, by how much, and which tensors a small difference excuses.

A choice that flips where two experts score alike is rounding; the same flip where they score far apart is a bug.
A rounding flip changes the token's MLP output wholly, and through attention every later token of its sequence, so
those tokens do not count from there on: widening the tolerance instead would hide real errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ci.evidence import LayerRouting


@dataclass(frozen=True)
class Flips:
    """Choices of experts that differ in one layer.

    `where` is bool (B, T). `gap` is float64 (B, T): by how much the expected logits favour the expected experts over
    those chosen instead, 0 where nothing flipped. `margin` is the smallest distance between the last expert chosen
    and the first one left out among the real tokens, in logits.
    """

    where: Tensor
    gap: Tensor
    margin: float


def flips(actual: Tensor, expected: Tensor, logits: Tensor, *, keep: Tensor) -> Flips:
    """Compare chosen experts, int64 (B, T, k) each, as sets; `logits` (B, T, experts) are the reference's."""
    chosen, wanted = _one_hot(actual, logits.shape[-1]), _one_hot(expected, logits.shape[-1])
    where = (chosen != wanted).any(-1) & keep
    scores = logits.double()
    lost = scores.masked_fill(~(wanted & ~chosen), -torch.inf).amax(-1)
    won = scores.masked_fill(~(chosen & ~wanted), torch.inf).amin(-1)
    gap = torch.where(where, lost - won, torch.zeros_like(lost))
    gap = gap.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)  # a set that only shrank is no near tie
    return Flips(where, gap, _smallest_margin(scores, expected.shape[-1], keep))


def small(found: Flips, allowed: Tensor) -> Tensor:
    """Which flips rounding explains, bool (B, T): two logits may each be off by `allowed` (B, T), so a gap of twice."""
    return found.where & (found.gap <= 2 * allowed)


def summary(layer: int, found: Flips, excused: Tensor, *, keep: Tensor) -> LayerRouting:
    """The compact record of one layer."""
    large = found.where & ~excused
    return LayerRouting(
        layer=layer,
        tokens=int(keep.sum()),
        small_flips=int(excused.sum()),
        large_flips=int(large.sum()),
        largest_gap=float(found.gap.max()),
        smallest_margin=found.margin,
    )


def loads(top_experts: Tensor, experts: int, *, keep: Tensor) -> Tensor:
    """How many of the kept tokens each expert received: int64 (experts,)."""
    return torch.bincount(top_experts[keep].flatten(), minlength=experts)


def spread(flipped: Tensor) -> Tensor:
    """After attention, every later token of a sequence has seen the flipped one."""
    return flipped.long().cummax(-1).values.bool()


def _one_hot(experts: Tensor, count: int) -> Tensor:
    """Bool (B, T, count); an expert that does not exist is in no set."""
    hot = torch.zeros(*experts.shape[:-1], count + 1, dtype=torch.bool, device=experts.device)
    known = (experts >= 0) & (experts < count)
    return hot.scatter_(-1, torch.where(known, experts, count).long(), True)[..., :count]


def _smallest_margin(scores: Tensor, k: int, keep: Tensor) -> float:
    if k >= scores.shape[-1] or not bool(keep.any()):
        return float("inf")
    best = scores.topk(k + 1, dim=-1).values
    return float((best[..., k - 1] - best[..., k])[keep].min())
