"""torch's AdamW over one parameter: the update that a gradient must give, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.subjects.training import OptimizerSettings


@dataclass(frozen=True)
class OptimizerHistory:
    """What an optimizer sees of one parameter: its first value, and by step its gradient and the factor of clipping."""

    weight: Tensor
    gradients: tuple[Tensor, ...]
    scales: tuple[float, ...]


def compute_updates(
    history: OptimizerHistory, settings: OptimizerSettings, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Return by step what torch's AdamW adds to the parameter, in float64, computed in `dtype`.

    Weight decay applies to matrices alone.
    """
    parameter = torch.nn.Parameter(history.weight.to(dtype).clone())
    optimizer = torch.optim.AdamW(
        [parameter],
        settings.learning_rate,
        (settings.beta_1, settings.beta_2),
        settings.epsilon,
        settings.weight_decay if is_decayed(history.weight) else 0.0,
    )
    updates = []
    for gradient, scale in zip(history.gradients, history.scales, strict=True):
        before = parameter.detach().double().clone()
        parameter.grad = gradient.to(dtype) * scale
        optimizer.step()
        updates.append(parameter.detach().double() - before)
    return updates


def is_decayed(weight: Tensor) -> bool:
    """Return whether weight decay applies to a parameter: to matrices, not to norms and biases."""
    return weight.ndim > 1


def compute_scales(norms: Sequence[float], limit: float | None) -> tuple[float, ...]:
    """Return by step the factor that clipping multiplies gradients of these L2 norms by."""
    return tuple(limit / norm if limit is not None and norm > limit else 1.0 for norm in norms)
