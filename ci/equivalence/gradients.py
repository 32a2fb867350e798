"""Gradients by Hugging Face's parameter names: the same floor rule as for the forward pass, parameter by parameter.

Catches what no forward pass shows: a detached path, a wrong recomputation, a tied gradient that is not summed, an
expert whose gradient goes to another's buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.equivalence.floors import GATE_A, MIN_FLOOR
from ci.equivalence.weights import Weights
from ci.evidence import Measure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

TRUSTED = 1 / GATE_A
"""Hugging Face's own noise from here on would let a gradient of zeros pass: no verdict then."""


def errors(actual: Path, expected: Path) -> dict[str, float]:
    """Relative L2 error of each parameter's gradient; infinite where it is missing or misshapen."""
    mine, right = Weights(actual), Weights(expected)
    return {name: _error(mine.tensor(name) if name in mine else None, right.tensor(name)) for name in right.files}


def unexpected(actual: Path, expected: Path) -> list[str]:
    """Gradients of parameters that the reference does not have."""
    right = Weights(expected)
    return [name for name in Weights(actual).files if name not in right]


def measures(
    actual: Path, expected: Path, floors: Mapping[str, float], *, dtype: str, compare_factor: float
) -> Iterator[Measure]:
    """Each parameter's gradient against its limit, in the order of the file; `floors` by name, relative L2."""
    for name, error in errors(actual, expected).items():
        floor = max(floors.get(name, 0.0), MIN_FLOOR[dtype])
        limit = GATE_A * floor * compare_factor
        yield Measure(
            tensor=f"gradient of {name}",
            dtype=dtype,
            shape=tuple(Weights(expected).tensor(name).shape),
            error=error,
            limit=limit,
            floor=floor,
            ratio=error / floor,
            passed=error <= limit,
            case="gradients",
        )


def _error(actual: Tensor | None, expected: Tensor) -> float:
    if actual is None or actual.shape != expected.shape or not bool(actual.isfinite().all()):
        return float("inf")
    right, norm = expected.double(), float(expected.double().norm())
    delta = float((actual.double() - right).norm())
    return delta / norm if norm else (float("inf") if delta else 0.0)
