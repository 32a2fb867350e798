"""Greedy continuations of two engines: equal, or different from a tie on that the noise floor explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ci.consumers.score_files import Continuation


@dataclass(frozen=True)
class Divergence:
    """Where a row's continuations part: the step, both tokens, and by how many nats the expected one was preferred.

    `distance` is infinite where an engine does not list the other one's token among its most likely.
    """

    row: int
    step: int
    expected: int
    actual: int
    distance: float

    def __str__(self) -> str:
        return (
            f"row {self.row}, token {self.step}: {self.actual} instead of {self.expected}, which is "
            f"{self.distance:.3g} nats more likely"
        )


def find_divergences(actual: Continuation, expected: Continuation) -> tuple[Divergence, ...]:
    """Return the first difference of each row; what follows it has another context, and says nothing.

    Its distance is the larger one of what the two engines say: a tie is one for both.
    """
    found = []
    for row, (one, other) in enumerate(zip(actual.ids, expected.ids, strict=True)):
        different = (one != other).nonzero()
        if len(different):
            step = int(different[0])
            token, wanted = int(one[step]), int(other[step])
            distance = max(_distance(expected, row, step, wanted, token), _distance(actual, row, step, token, wanted))
            found.append(Divergence(row, step, wanted, token, distance))
    return tuple(found)


def count_equal_tokens(actual: Continuation, expected: Continuation) -> int:
    """Count the tokens before each row's first difference."""
    equal = (actual.ids == expected.ids).long().cumprod(-1)
    return int(equal.sum())


def _distance(side: Continuation, row: int, step: int, better: int, worse: int) -> float:
    """Return by how many nats one side prefers a token to another."""
    ids, logs = side.top_ids[row, step], side.top_logprobs[row, step].double()
    first, second = (logs[ids == token] for token in (better, worse))
    if not len(first) or not len(second):
        return float("inf")
    return float(torch.nan_to_num(first[0] - second[0], nan=float("inf")).clamp(min=0))
