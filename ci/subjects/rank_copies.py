"""Copies of one tensor on several ranks: how far they differ, and from where on they disagree."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SAME = 1e-6
"""Relative L2 difference up to which copies agree: collectives may add in another order."""


def compare_copies(one: Tensor, other: Tensor) -> float:
    """Return the relative L2 difference of two copies."""
    whole = one.double()
    difference, norm = float((whole - other.double()).norm()), float(whole.norm())
    return difference / norm if norm else (float("inf") if difference else 0.0)
