"""The relative L2 error of a tensor, without a unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.subjects.rank_copies import compare_copies

if TYPE_CHECKING:
    from torch import Tensor


def compute_relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the relative L2 error; infinite for another shape, and for a value that is not finite."""
    if actual.shape != expected.shape or not bool(actual.isfinite().all()):
        return float("inf")
    return compare_copies(expected, actual)
