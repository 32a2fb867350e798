"""Which tensor of a forward pass in parts is the first wrong one, on which rank, and which sum is missing. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ci.equivalence.relative_error import compute_relative_error
from ci.equivalence.tensor_location import locate_tensor
from ci.tensor_names import execution_order

WRONG = 1e-3
"""A captured tensor is wrong beyond this relative error: far above float32 noise, far below a lost part."""
FEATURES = 2
"""The axis of heads, features or vocabulary, which tensor ranks cut."""


@dataclass(frozen=True)
class CapturedGroup:
    """What the tensor ranks of one stage captured of one document, and the right tensors by name."""

    ranks: Sequence[int]
    captured: Sequence[Mapping[str, Tensor]]
    expected: Mapping[str, Tensor]


def describe_captures(group: CapturedGroup) -> str:
    """Return the first wrong tensor in the order of execution, with its rank and cause; empty where all are right."""
    for name in _list_shared(group):
        parts, expected = [one[name] for one in group.captured], group.expected[name]
        if reason := _describe_tensor(parts, expected, group.ranks):
            return f"{locate_tensor(name)}: {reason}"
    return ""


def describe_larger_error(group: CapturedGroup, loss_error: float) -> str:
    """Name the first tensor that is off by more than the loss, and may be its cause; empty where there is none.

    A tensor that ranks cut is left out.
    """
    for name in _list_shared(group):
        part, expected = group.captured[0][name], group.expected[name]
        if not expected.is_floating_point() or part.shape != expected.shape:
            continue
        if (error := compute_relative_error(part, expected)) > loss_error:
            more = f"the first that is by more than the loss ({loss_error:.1e})"
            return f"{locate_tensor(name)} is off by {error:.1e}, {more}"
    return ""


def _list_shared(group: CapturedGroup) -> list[str]:
    shared = (name for name in group.captured[0] if name in group.expected and name in group.captured[-1])
    return sorted(shared, key=execution_order)


def _describe_tensor(parts: Sequence[Tensor], expected: Tensor, ranks: Sequence[int]) -> str:
    if not expected.is_floating_point():
        return ""
    if parts[0].shape != expected.shape:
        return _describe_shards(parts, expected, ranks)
    wrong = [index for index, part in enumerate(parts) if compute_relative_error(part, expected) > WRONG]
    if not wrong:
        return ""
    total = torch.stack([part.double() for part in parts]).sum(0)
    if len(parts) > 1 and compute_relative_error(total, expected) <= WRONG:
        return f"the all-reduce over tensor ranks {_join(ranks)} is missing: their sum is right, each alone is not"
    ratio = _find_ratio(parts[wrong[0]], expected)
    if ratio is not None:
        return f"it has {ratio:.3g} times its size on rank {ranks[wrong[0]]}"
    if _is_constant(parts[wrong[0]], expected):
        return f"one vector is added at every token on rank {ranks[wrong[0]]}: a bias counts once a rank, or not at all"
    return f"wrong on rank {_join([ranks[index] for index in wrong])}"


def _describe_shards(parts: Sequence[Tensor], expected: Tensor, ranks: Sequence[int]) -> str:
    widths = [part.shape[FEATURES] if part.ndim > FEATURES else 0 for part in parts]
    if sum(widths) != expected.shape[FEATURES]:
        return f"ranks {_join(ranks)} hold {widths} of {expected.shape[FEATURES]} features"
    wanted = expected.split_with_sizes(widths, FEATURES)
    wrong = [i for i, part in enumerate(parts) if compute_relative_error(part, wanted[i]) > WRONG]
    if not wrong:
        return ""
    for index in wrong:
        for other, one in enumerate(wanted):
            if other != index and compute_relative_error(parts[index], one) <= WRONG:
                return f"rank {ranks[index]} computes the part of rank {ranks[other]}: the ranks are in the wrong order"
    return f"wrong on rank {_join([ranks[index] for index in wrong])}"


def _is_constant(actual: Tensor, expected: Tensor) -> bool:
    """Return whether the error is one vector, the same at every token."""
    error = (actual.double() - expected.double()).flatten(0, 1)
    spread = float((error - error.mean(0)).norm())
    return spread <= 0.01 * float(error.norm())


def _find_ratio(actual: Tensor, expected: Tensor) -> float | None:
    wanted = expected.double()
    ratio = float((actual.double() * wanted).sum() / (wanted * wanted).sum())
    return ratio if compute_relative_error(actual, ratio * wanted) <= WRONG else None


def _join(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))
