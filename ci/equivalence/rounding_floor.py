"""How imprecise right implementations are: Hugging Face's on its own input, and each right order of roundings.

Hugging Face may have only one implementation of an operation, and a right one may round elsewhere (the cast before or
after a norm's weight, exponentials or probabilities in a fused attention). So the orders are computed on the
candidate's own input as well, over several perturbations of one rounding: a distribution, not one sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ci.equivalence.precision_statistics import Estimate
from ci.equivalence.tolerances import LENS_DEVIATIONS, LENS_LEAST, LENS_LEAST_SHARE, LENS_MARGIN, ROUNDING_SEEDS
from ci.subjects.forward import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.equivalence.operation_formulas import Formula
    from ci.subjects.base import DType

Statistics = Mapping[tuple[str, str], Estimate]
"""Figures by tensor and statistic."""


def perturb_in_order(formula: Formula, inputs: tuple[Tensor, ...], dtype: DType) -> Iterator[Tensor]:
    """Yield the outputs of right orders of roundings; each seed perturbs floating inputs by far less than a rounding.

    Perturbed sums fall on other sides of the roundings behind them, so that each seed is another sample.
    """
    roundoff = torch.finfo(DTYPES[dtype]).eps
    for seed in range(ROUNDING_SEEDS):
        generator = torch.Generator().manual_seed(seed)
        yield from formula.round_in_order(tuple(_perturb(t, generator, roundoff / 64) for t in inputs), DTYPES[dtype])


def _perturb(tensor: Tensor, generator: torch.Generator, size: float) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device) - 0.5
    return (tensor.double() * (1 + size * noise)).to(tensor.dtype)


def count_deviations(found: Estimate, floor: Estimate, dtype: DType, *, share: bool) -> float:
    """Return by how many standard errors a figure is beyond its floor and margin.

    Only the figure's own error counts: the floor is measured on the same tokens, mostly on the same values.
    """
    least = LENS_LEAST_SHARE if share else LENS_LEAST[dtype]
    excess = found.size - (1 + LENS_MARGIN) * floor.size - least
    return excess / max(found.error, least / LENS_DEVIATIONS)
