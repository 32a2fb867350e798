"""The relative L2 error of a tensor, without a unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def compute_relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the relative L2 error; infinite for another shape, and for a value that is not finite."""
    if actual.shape != expected.shape or not bool(actual.isfinite().all()):
        return float("inf")
    wanted = expected.double()
    norm, delta = float(wanted.norm()), float((actual.double() - wanted).norm())
    return delta / norm if norm else (float("inf") if delta else 0.0)
