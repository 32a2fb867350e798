"""The shape of an error: what a wrong tensor has in common with the right one tells what went wrong. Pure.

Each finding is measured on one operation whose inputs were right (the block was fed the reference's), so that the
error is that operation's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

EXPLAINED = 0.05
"""A simple relation explains an error when it leaves less than this share of it."""
FEW = 0.1
"""A few channels, columns or tokens: at most this share of them."""


@dataclass(frozen=True)
class View:
    """One wrong tensor: `actual` and `expected` (B, T, …), `wrong` and `keep` bool (B, T), `position` int64 (B, T).

    `position` counts within each document. `siblings` are right tensors that the actual one might have been mistaken
    for; `experts` is int64 (B, T, k), whom each token was routed to.
    """

    actual: Tensor
    expected: Tensor
    wrong: Tensor
    keep: Tensor
    position: Tensor
    window: int | None = None
    siblings: Mapping[str, Tensor] = field(default_factory=dict)
    experts: Tensor | None = None


@dataclass(frozen=True)
class Signature:
    """What is true of the error. Numbers are None where the relation does not hold.

    `first_wrong` is the first position in a document that is wrong. `scale` is the constant ratio actual / expected;
    `token_scale`, `channel_scale`: the ratio is constant within a token, within a channel. `offset`: actual - expected
    is the same for every token. `reordered`: a token's values are right and in another order. `channels` and `tokens`
    list the few that carry the error. `same_as` names the right tensor that this one equals.
    """

    first_wrong: int = 0
    beyond_window: bool = False
    scale: float | None = None
    token_scale: bool = False
    channel_scale: bool = False
    offset: bool = False
    reordered: bool = False
    channels: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    experts: tuple[int, ...] = ()
    padded_only: bool = False
    same_as: str = ""


def signature(view: View) -> Signature:
    """Measure every relation of the error in `view`."""
    actual, expected = (t.double().flatten(2)[view.keep] for t in (view.actual, view.expected))
    delta = actual - expected
    first = int(view.position[view.wrong].min()) if bool(view.wrong.any()) else 0
    return Signature(
        first_wrong=first,
        beyond_window=view.window is not None and first == view.window,
        scale=_scale(actual, expected, delta),
        token_scale=_explained(actual - _fit(actual, expected, 1) * expected, delta),
        channel_scale=_explained(actual - _fit(actual, expected, 0) * expected, delta),
        offset=len(delta) > 1 and _explained(delta - delta.mean(0), delta),
        reordered=_reordered(view),
        channels=_few(delta.square().sum(0)),
        heads=_heads(view),
        experts=_experts(view),
        padded_only=_padded_only(view),
        same_as=_same_as(view),
    )


def _scale(actual: Tensor, expected: Tensor, delta: Tensor) -> float | None:
    scale = float((actual * expected).sum() / expected.square().sum().clamp(min=1e-300))
    return scale if _explained(actual - scale * expected, delta) else None


def _fit(actual: Tensor, expected: Tensor, dim: int) -> Tensor:
    """The best factor for each token (dim 1) or each channel (dim 0)."""
    energy = expected.square().sum(dim, keepdim=True)
    return (actual * expected).sum(dim, keepdim=True) / energy.clamp(min=1e-300)


def _explained(rest: Tensor, delta: Tensor) -> bool:
    return bool(rest.norm() <= EXPLAINED * delta.norm())


def _reordered(view: View) -> bool:
    """Whether the sorted values agree where RoPE turns nothing: on the first token of each document."""
    starts = view.keep & (view.position == 0) & view.wrong
    if not bool(starts.any()) or view.actual[starts].flatten(1).shape[1] < 3:
        return False
    actual, expected = (t[starts].double().flatten(1) for t in (view.actual, view.expected))
    return _explained(actual.sort(-1).values - expected.sort(-1).values, actual - expected)


def _few(energy: Tensor) -> tuple[int, ...]:
    """The indices that carry all but a thousandth of the error, where they are few; else none."""
    ranked = energy.sort(descending=True)
    needed = int((ranked.values.cumsum(0) < (1 - 1e-3) * energy.sum()).sum()) + 1
    return tuple(sorted(ranked.indices[:needed].tolist())) if needed <= max(1, FEW * len(energy)) else ()


def _heads(view: View) -> tuple[int, ...]:
    """Which heads of (B, T, heads, head_dim) carry the error, where not all do."""
    if view.expected.ndim != 4:
        return ()
    delta = (view.actual.double() - view.expected.double())[view.keep]
    by_head = delta.square().sum((0, 2)) / delta.square().sum().clamp(min=1e-300)
    wrong = (by_head > 1e-6).nonzero().flatten().tolist()
    return tuple(wrong) if len(wrong) < len(by_head) else ()


def _experts(view: View) -> tuple[int, ...]:
    """The experts whose tokens are wrong, where the tokens of some others are right."""
    if view.experts is None:
        return ()
    count = int(view.experts.max()) + 1
    hot = torch.zeros(*view.experts.shape[:-1], count, dtype=torch.bool).scatter_(-1, view.experts, True)
    routed, wrong = hot[view.keep], view.wrong[view.keep]
    innocent = routed[~wrong].any(0)  # received a token that is right
    guilty = routed[wrong].any(0) & ~innocent
    explained = bool((routed[wrong] & guilty).any(-1).all())
    return tuple(guilty.nonzero().flatten().tolist()) if explained and bool(innocent.any()) else ()


def _padded_only(view: View) -> bool:
    padded = ~view.keep.all(-1)
    wrong = view.wrong.any(-1)
    return bool(padded.any()) and bool((~padded).any()) and bool(wrong[padded].any()) and not bool(wrong[~padded].any())


def _same_as(view: View) -> str:
    """A right tensor that the actual one equals up to a scale; heads are compared where RoPE turns nothing."""
    tokens = view.keep & (view.position == 0) if view.expected.ndim == 4 else view.keep
    actual, expected = (t[tokens].double().flatten(1) for t in (view.actual, view.expected))
    for name, tensor in view.siblings.items():
        if tensor.shape == view.actual.shape:
            other = tensor[tokens].double().flatten(1)
            scale = (actual * other).sum() / other.square().sum().clamp(min=1e-300)
            if _explained(actual - scale * other, actual - expected):
                return name
    return ""
