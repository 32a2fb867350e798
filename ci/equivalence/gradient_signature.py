"""What a wrong gradient is made of: shares of the documents, of the balancing loss, of ranks' parts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ci.equivalence.relative_error import compute_relative_error
from ci.layouts import Layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


EXPLAINED = 2e-3
"""A combination explains a gradient where it leaves less than this share of its norm."""
ROUGH = 0.5
"""A term explains most of an error where it leaves less than this share of it."""
EQUAL = 3e-3
"""Two factors are equal within this relative distance."""


@dataclass(frozen=True)
class StepFacts:
    """What is known of a step: its layout, counted tokens and gradient norms by document, and the clip limit."""

    layout: Layout
    tokens: tuple[int, ...]
    norms: tuple[float, ...]
    limit: float | None

    @property
    def rank_tokens(self) -> tuple[int, ...]:
        """Counted tokens of the data rank of each document, by document."""
        data = self.layout.data
        totals = [sum(self.tokens[rank::data]) for rank in range(data)]
        return tuple(totals[document % data] for document in range(len(self.tokens)))


def fit_shares(actual: Tensor, parts: Sequence[Tensor]) -> tuple[float, ...] | None:
    """Return the factors with which the parts add up to a gradient; None where they do not."""
    if any(part.shape != actual.shape for part in parts) or not bool(actual.isfinite().all()):
        return None
    basis = torch.stack([part.double().flatten() for part in parts], 1)
    scales = basis.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    wanted = actual.double().flatten()
    solved = torch.linalg.lstsq(basis / scales, wanted[:, None]).solution[:, 0] / scales
    left = float((basis @ solved - wanted).norm())
    size = max(float(wanted.norm()), float(basis.sum(1).norm()))
    return tuple(solved.tolist()) if left <= EXPLAINED * size else None


def describe_shares(shares: Sequence[float], facts: StepFacts) -> str:
    """Return what the factors of the documents mean; a factor of 1 each is right and gives nothing."""
    count, total = len(shares), sum(facts.tokens)
    known: list[tuple[str, Sequence[float]]] = [
        ("", [1.0] * count),
        ("the loss is divided by the data rank's local tokens", [total / n for n in facts.rank_tokens]),
        (
            "the loss is divided by the data rank's local tokens, then averaged over ranks",
            [total / (n * facts.layout.data) for n in facts.rank_tokens],
        ),
        ("the gradient is the sum over tokens, not their mean", [float(total)] * count),
    ]
    if facts.layout.data == 1:
        known = [known[0], *known[3:]]
    known += [
        ("the loss is divided by each document's own tokens", [total / (count * n) for n in facts.tokens]),
        ("the loss is summed over documents, each divided by its own tokens", [total / n for n in facts.tokens]),
    ]
    if facts.limit is not None:
        clipped = [min(1.0, facts.limit / norm) for norm in facts.norms]
        known.append(("each document's gradient is clipped before the sum", clipped))
    for words, factors in known:
        if _are_equal(shares, factors):
            return words
    return _describe_pattern(shares, facts)


def describe_balancing(share: float, documents: int) -> str:
    """Return what the factor of the balancing loss's gradient means; 1 is right."""
    if abs(share - 1) <= 0.02:
        return ""
    if abs(share) <= 0.02:
        return "the balancing loss has no gradient"
    if documents > 1 and abs(share - documents) <= 0.02 * documents:
        return f"the balancing loss is summed over the {documents} documents of the step instead of averaged"
    return f"the balancing loss's gradient has {share:.3g} times its size"


def describe_rough_balancing(error: Tensor, balancing: Tensor, documents: int) -> str:
    """Return how often the balancing loss's gradient counts, where that is most of an error; empty elsewhere.

    The rest may be a statistic over other tokens, such as padding.
    """
    square = float((balancing * balancing).sum())
    extra = float((error * balancing).sum()) / square if square else 0.0
    size = float(error.norm())
    if not size or float((error - extra * balancing).norm()) > ROUGH * size:
        return ""
    summed = documents > 1 and abs(1 + extra - documents) <= ROUGH / 2
    why = f": it is summed over the {documents} documents of the step" if summed else ""
    return (
        f"the balancing loss's gradient counts about {1 + extra:.2f} times{why}, and takes in other tokens, as padding"
    )


def describe_uses(lookup: float, head: float) -> str:
    """Return what the factors of both uses of tied embeddings mean."""
    if _are_equal((lookup, head), (1, 1)):
        return ""
    if _are_equal((lookup, head), (1, 0)):
        return "only the lookup's part arrives, the head's on the last stage is lost: their sum over both is missing"
    if _are_equal((lookup, head), (0, 1)):
        return "only the head's part arrives, the lookup's on the first stage is lost: their sum over both is missing"
    return f"the lookup's part counts {lookup:.3g} times, the head's {head:.3g} times"


def describe_rank_parts(actual: Tensor, expected: Tensor, ranks: int) -> str:
    """Return which tensor rank's part of a gradient is wrong, cut along rows or columns."""
    for axis, word in ((0, "rows"), (1, "columns"))[: actual.ndim]:
        if ranks < 2 or actual.shape[axis] < ranks:
            continue
        ours, theirs = actual.double().tensor_split(ranks, axis), expected.double().tensor_split(ranks, axis)
        shares = [_compute_ratio(one, other) for one, other in zip(ours, theirs, strict=True)]
        if None not in shares and not all(abs((share or 0) - (shares[0] or 0)) <= EQUAL for share in shares):
            return _describe_parts([share or 0.0 for share in shares], word)
        swapped = [
            compute_relative_error(one, other)
            for one, other in zip(ours, theirs[::-1], strict=True)
            if one.shape == other.shape
        ]
        if len(swapped) == ranks and max(swapped) <= EXPLAINED:
            return f"the {word} of the tensor ranks are in the wrong order"
    return ""


def describe_factor(actual: Tensor, expected: Tensor, layout: Layout) -> str:
    """Describe the one factor between a gradient and the right one, and its possible cause."""
    ratio = _compute_ratio(actual, expected)
    if ratio is None or abs(ratio - 1) <= EQUAL:
        return ""
    if ratio == 0:
        return "it is zero"
    sizes: Mapping[str, float] = {
        "each tensor rank counts it once": layout.tensor,
        "it is divided by the tensor ranks": 1 / layout.tensor,
        "each data rank counts it once": layout.data,
        "it is divided by the data ranks": 1 / layout.data,
        "each stage counts it once": layout.pipeline,
        "it is divided by the stages": 1 / layout.pipeline,
        "it is summed over micro-batches": layout.micro_batches,
        "it is divided by the micro-batches": 1 / layout.micro_batches,
        "it has the wrong sign": -1,
    }
    why = next((words for words, size in sizes.items() if size != 1 and abs(ratio - size) <= EQUAL * abs(size)), "")
    return f"it has {ratio:.3g} times its size" + (f": {why}" if why else "")


def _describe_pattern(shares: Sequence[float], facts: StepFacts) -> str:
    """Describe documents that are lost, or counted more than once."""
    layout, count = facts.layout, len(shares)
    lost = [d for d, share in enumerate(shares) if abs(share) <= 0.02]
    kept = [d for d in range(count) if d not in lost]
    factors = {round(shares[d], 2) for d in kept}
    if all(abs(share - shares[0]) <= EQUAL * abs(shares[0]) for share in shares):
        return _describe_common(shares[0], layout, count)
    if lost and kept and len(factors) == 1:
        ranks = sorted({d % layout.data for d in kept})
        if layout.data > 1 and len(ranks) < layout.data:
            repeated = [sum(facts.tokens) / facts.rank_tokens[d] for d in kept]
            if _are_equal([shares[d] for d in kept], repeated):
                return f"every data rank computes the documents of rank {ranks[0]}"
            return f"only data rank {ranks[0]}'s documents arrive: the sum over the data ranks is missing"
        place = "the last" if kept == [count - 1] else ("the first" if kept == [0] else "some")
        return f"only {place} micro-batch's gradient arrives: it is overwritten where it should accumulate"
    listed = ", ".join(f"{share:.3g}" for share in shares)
    return f"its documents count {listed} times"


def _describe_common(share: float, layout: Layout, count: int) -> str:
    return (
        describe_factor(torch.tensor([share]), torch.tensor([1.0]), layout)
        or f"all {count} documents count {share:.3g} times"
    )


def _describe_parts(shares: Sequence[float], word: str) -> str:
    right = [rank for rank, share in enumerate(shares) if abs(share - 1) <= EQUAL]
    lost = [rank for rank, share in enumerate(shares) if abs(share) <= EQUAL]
    if right and len(right) + len(lost) == len(shares):
        return f"only rank {', '.join(map(str, right))}'s {word} arrive"
    return f"the {word} of the tensor ranks have " + ", ".join(f"{share:.3g}" for share in shares) + " times their size"


def _compute_ratio(actual: Tensor, expected: Tensor) -> float | None:
    """Return the factor between two tensors; None where they differ by more than a factor."""
    one, other = actual.double(), expected.double()
    square = float((other * other).sum())
    if not square or one.shape != other.shape:
        return None
    ratio = float((one * other).sum()) / square
    return ratio if float((one - ratio * other).norm()) <= EXPLAINED * square**0.5 else None


def _are_equal(shares: Sequence[float], factors: Sequence[float]) -> bool:
    pairs = zip(shares, factors, strict=True)
    return all(abs(share - factor) <= EQUAL * max(abs(factor), 1.0) for share, factor in pairs)
