"""Which wrong sum of token losses gives the loss that a subject reported. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from ci.layouts import Layout

MATCHES = 3e-6
"""A sum explains a loss where it gives it within this relative distance: far below what documents differ by."""


@dataclass(frozen=True)
class TokenLosses:
    """Cross entropy in nats of every prediction, and which of them count, by document."""

    losses: Sequence[Tensor]
    counted: Sequence[Tensor]

    @property
    def sums(self) -> list[float]:
        """Sum over the counted predictions of each document."""
        return [float((one.double() * c).sum()) for one, c in zip(self.losses, self.counted, strict=True)]

    @property
    def tokens(self) -> list[int]:
        """Counted predictions of each document."""
        return [int(c.sum()) for c in self.counted]

    @property
    def right(self) -> float:
        """The mean over all counted predictions."""
        return sum(self.sums) / sum(self.tokens)


def describe_loss(actual: float, tokens: TokenLosses, layout: Layout) -> str:
    """Return which wrong sum a loss is; empty where it is right, or no known one."""
    if _is_near(actual, tokens.right):
        return ""
    return next((words for words, value in _list_wrong_sums(tokens, layout) if _is_near(actual, value)), "")


def _list_wrong_sums(tokens: TokenLosses, layout: Layout) -> Iterator[tuple[str, float]]:
    sums, counts, documents = tokens.sums, tokens.tokens, len(tokens.losses)
    all_sum, all_count = sum(float(one.double().sum()) for one in tokens.losses), sum(map(len, tokens.losses))
    yield "the loss mask is ignored", all_sum / all_count
    yield "masked tokens are left out of the sum but counted in the divisor", sum(sums) / all_count
    yield "masked tokens count in the sum but not in the divisor", all_sum / sum(counts)
    ranks = [(sum(sums[r :: layout.data]), sum(counts[r :: layout.data])) for r in range(layout.data)]
    for rank, (one, count) in enumerate(ranks if layout.data > 1 else []):
        yield f"it is that of data rank {rank} alone: every rank computes the documents of rank {rank}", one / count
        yield (
            f"only data rank {rank}'s documents are in the loss: its sum over the data ranks is missing",
            one / sum(counts),
        )
    if layout.data > 1:
        local = [one / count for one, count in ranks]
        yield "the loss is divided by each data rank's local tokens, then averaged", sum(local) / layout.data
        yield "the loss is divided by each data rank's local tokens, then summed", sum(local)
    means = [one / count for one, count in zip(sums, counts, strict=True)]
    yield "the loss is the mean of the documents' means, not of their tokens", sum(means) / documents
    yield "the loss is summed over documents, each divided by its own tokens", sum(means)
    yield "the loss is a sum over tokens, not their mean", sum(sums)
    for document, mean in enumerate(means if documents > 1 else []):
        yield f"only document {document} is in the loss", mean
        yield f"only document {document} is in the loss, divided by all tokens", sums[document] / sum(counts)
    for factor in {layout.tensor, layout.pipeline, layout.data, layout.micro_batches} - {1}:
        yield f"the loss is {factor} times as large: it is summed over what shares it", factor * tokens.right
        yield f"the loss is divided by {factor} once more", tokens.right / factor


def _is_near(actual: float, expected: float) -> bool:
    return abs(actual - expected) <= MATCHES * abs(expected)
