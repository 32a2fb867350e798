"""The search for the first bad candidate: which one is tried next, and what the answers leave. No I/O.

Each run halves the candidates that can still be tried, so that n of them need at most ceil(log2 n) runs, one more that
confirms the bad end, and one for each candidate that gives no answer: that one leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Answer = Literal["good", "bad", "skip"]
"""`skip`: it could not be built, or it fails in another way than the bad end."""


@dataclass(frozen=True)
class Search:
    """Candidates after the good end, oldest first and ending in the bad one, with the answers so far."""

    candidates: tuple[str, ...]
    answers: Mapping[str, Answer] = field(default_factory=dict)

    def choose_next(self) -> str | None:
        """Return the candidate to try: first the bad end, then the middle of what is left; None at the end."""
        if self.candidates[-1] not in self.answers:
            return self.candidates[-1]
        untried = [one for one in self._list_open()[:-1] if one not in self.answers]
        return untried[(len(untried) - 1) // 2] if untried else None

    def find_culprits(self) -> tuple[str, ...]:
        """Return the candidates one of which is the first bad one: a single one unless some gave no answer."""
        return self._list_open()

    def count_runs(self) -> int:
        """Return how many candidates were tried."""
        return len(self.answers)

    def count_left(self) -> int:
        """Return how many runs are still needed at most, if each gives an answer."""
        untried = [one for one in self._list_open()[:-1] if one not in self.answers]
        return len(untried).bit_length() + (self.candidates[-1] not in self.answers)

    def _list_open(self) -> tuple[str, ...]:
        """List the candidates after the last good one, up to the first bad one."""
        good = [at for at, one in enumerate(self.candidates) if self.answers.get(one) == "good"]
        begin = max(good, default=-1) + 1
        bad = [at for at, one in enumerate(self.candidates) if self.answers.get(one) == "bad" and at >= begin]
        return self.candidates[begin : min(bad, default=len(self.candidates) - 1) + 1]


def limit_runs(candidates: int) -> int:
    """Return the most runs that a search needs where every candidate gives an answer: ceil(log2 n) + 1."""
    return (candidates - 1).bit_length() + 1
