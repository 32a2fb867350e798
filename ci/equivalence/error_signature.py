"""The shape of an error: what a wrong tensor has in common with the right one tells what went wrong.

Each relation is measured on one operation whose inputs were right (teacher forcing), so that the error is that
operation's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ci.equivalence.tolerances import EXPLAINED_RESIDUAL, FEW_RESIDUAL, FEW_SHARE, HEAD_SHARE, MOST_SHARE

TINY = 1e-300
"""Keeps a division by the energy of a tensor of zeros finite."""


@dataclass(frozen=True)
class WrongTensor:
    """One wrong tensor: `actual` and `expected` (B, T, …), `wrong` and `keep` bool (B, T), `position` int64 (B, T).

    `position` counts within each document. `siblings` are right tensors that the actual one might have been mistaken
    for; `experts` is int64 (B, T, k), the experts of each token; `image` is bool (B, T), the tokens of images.
    """

    actual: Tensor
    expected: Tensor
    wrong: Tensor
    keep: Tensor
    position: Tensor
    window: int | None = None
    siblings: Mapping[str, Tensor] = field(default_factory=dict)
    experts: Tensor | None = None
    image: Tensor | None = None


@dataclass(frozen=True)
class ErrorSignature:
    """The relations that hold for an error. Numbers are None where the relation does not hold.

    `first_wrong` is the first position in a document that is wrong. `scale` is the constant ratio actual / expected;
    `token_scale`, `channel_scale`: the ratio is constant within a token, within a channel. `offset`: actual - expected
    is the same for every token. `reordered`: a token's values are right and in another order. `channels` and `heads`
    list the few that carry the error, `experts` those whose tokens are wrong. `same_as` names the right tensor that
    this one equals. `later_documents`: the first row is right, later documents are wrong from their first token, which
    sees no other. `only_last_right`: the last token of each row, which sees all others, is right, and no other is.
    `only_images`: no token of text is wrong.
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
    later_documents: bool = False
    only_last_right: bool = False
    only_images: bool = False
    same_as: str = ""


def compute_signature(tensor: WrongTensor) -> ErrorSignature:
    """Measure every relation of the error."""
    actual, expected = (t.double().flatten(2)[tensor.keep] for t in (tensor.actual, tensor.expected))
    delta = actual - expected
    first = int(tensor.position[tensor.wrong].min()) if bool(tensor.wrong.any()) else 0
    return ErrorSignature(
        first_wrong=first,
        beyond_window=tensor.window is not None and first == tensor.window,
        scale=_find_scale(actual, expected, delta),
        token_scale=_explains(actual - _fit_factors(actual, expected, 1) * expected, delta),
        channel_scale=_explains(actual - _fit_factors(actual, expected, 0) * expected, delta),
        offset=len(delta) > 1 and _explains(delta - delta.mean(0), delta),
        reordered=_is_reordered(tensor),
        channels=_find_few_channels(delta.square().sum(0)),
        heads=_find_wrong_heads(tensor),
        experts=_find_wrong_experts(tensor),
        padded_only=_is_padded_only(tensor),
        later_documents=_is_right_in_first_document(tensor),
        only_last_right=_is_only_last_right(tensor),
        only_images=_is_only_images(tensor),
        same_as=_find_twin(tensor),
    )


def _find_scale(actual: Tensor, expected: Tensor, delta: Tensor) -> float | None:
    scale = float((actual * expected).sum() / expected.square().sum().clamp(min=TINY))
    return scale if _explains(actual - scale * expected, delta) else None


def _fit_factors(actual: Tensor, expected: Tensor, dim: int) -> Tensor:
    """Return the least-squares factor of each token (dim 1) or each channel (dim 0)."""
    energy = expected.square().sum(dim, keepdim=True)
    return (actual * expected).sum(dim, keepdim=True) / energy.clamp(min=TINY)


def _explains(rest: Tensor, delta: Tensor) -> bool:
    return bool(rest.norm() <= EXPLAINED_RESIDUAL * delta.norm())


def _is_reordered(tensor: WrongTensor) -> bool:
    """Compare sorted values on the first token of each document, where RoPE rotates nothing."""
    starts = tensor.keep & (tensor.position == 0) & tensor.wrong
    if not bool(starts.any()) or tensor.actual[starts].flatten(1).shape[1] < 3:
        return False
    actual, expected = (t[starts].double().flatten(1) for t in (tensor.actual, tensor.expected))
    return _explains(actual.sort(-1).values - expected.sort(-1).values, actual - expected)


def _find_few_channels(energy: Tensor) -> tuple[int, ...]:
    """Return the channels that carry the error, where they are few; else none."""
    ranked = energy.sort(descending=True)
    needed = int((ranked.values.cumsum(0) < (1 - FEW_RESIDUAL) * energy.sum()).sum()) + 1
    return tuple(sorted(ranked.indices[:needed].tolist())) if needed <= max(1, FEW_SHARE * len(energy)) else ()


def _find_wrong_heads(tensor: WrongTensor) -> tuple[int, ...]:
    """Return the heads of (B, T, heads, head_dim) that carry the error, where not all do."""
    if tensor.expected.ndim != 4:
        return ()
    delta = (tensor.actual.double() - tensor.expected.double())[tensor.keep]
    by_head = delta.square().sum((0, 2)) / delta.square().sum().clamp(min=TINY)
    wrong = (by_head > HEAD_SHARE).nonzero().flatten().tolist()
    return tuple(wrong) if len(wrong) < len(by_head) else ()


def _find_wrong_experts(tensor: WrongTensor) -> tuple[int, ...]:
    """Return the experts whose tokens are all wrong, where the tokens of others are right."""
    if tensor.experts is None:
        return ()
    count = int(tensor.experts.max()) + 1
    hot = torch.zeros(*tensor.experts.shape[:-1], count, dtype=torch.bool).scatter_(-1, tensor.experts, True)
    routed, wrong = hot[tensor.keep], tensor.wrong[tensor.keep]
    right_somewhere = routed[~wrong].any(0)
    suspects = routed[wrong].any(0) & ~right_somewhere
    all_explained = bool((routed[wrong] & suspects).any(-1).all())
    return tuple(suspects.nonzero().flatten().tolist()) if all_explained and bool(right_somewhere.any()) else ()


def _is_padded_only(tensor: WrongTensor) -> bool:
    padded = ~tensor.keep.all(-1)
    wrong = tensor.wrong.any(-1)
    return bool(padded.any()) and bool((~padded).any()) and bool(wrong[padded].any()) and not bool(wrong[~padded].any())


def _is_only_images(tensor: WrongTensor) -> bool:
    if tensor.image is None:
        return False
    text = tensor.keep & ~tensor.image
    return bool(tensor.wrong.any()) and bool(text.any()) and not bool((tensor.wrong & text).any())


def _is_right_in_first_document(tensor: WrongTensor) -> bool:
    """Return whether row 0 is right, and each wrong row is wrong at its document's first token already.

    Rows are packed one after the other, or padded in front: only what row 0 holds has nothing before it.
    """
    at_start = tensor.wrong & tensor.keep & (tensor.position == 0)
    wrong, from_start = tensor.wrong.any(-1), at_start.any(-1)
    return not bool(wrong[0]) and bool(wrong.any()) and bool((wrong == from_start).all())


def _is_only_last_right(tensor: WrongTensor) -> bool:
    """Return whether the last token of each row is right and nearly every other is wrong."""
    last, others = tensor.wrong[:, -1], tensor.wrong[:, :-1][tensor.keep[:, :-1]]
    return not bool(last.any()) and bool(others.numel()) and float(others.float().mean()) > MOST_SHARE


def _find_twin(tensor: WrongTensor) -> str:
    """Return the name of the right tensor that the actual one equals up to a scale.

    Heads are compared on first tokens, where RoPE rotates nothing.
    """
    tokens = tensor.keep & (tensor.position == 0) if tensor.expected.ndim == 4 else tensor.keep
    actual, expected = (t[tokens].double().flatten(1) for t in (tensor.actual, tensor.expected))
    for name, sibling in tensor.siblings.items():
        if sibling.shape == tensor.actual.shape:
            other = sibling[tokens].double().flatten(1)
            scale = (actual * other).sum() / other.square().sum().clamp(min=TINY)
            if _explains(actual - scale * other, actual - expected):
                return name
    return ""
