"""AdamW over the parameters that a rank holds, with its state cut over the data ranks where the layout asks for it.

https://arxiv.org/abs/1711.05101, with the moments corrected for their start at zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ci.subjects.reference.rank_groups import RankGroups
from ci.subjects.training import OptimizerSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Moments:
    """The two moments of one parameter, or of the slice (n,) of it that this rank updates."""

    first: Tensor
    second: Tensor


@dataclass
class AdamW:
    """The optimizer of one rank. `step` counts finished steps.

    With `slices` each data rank keeps the moments of an equal slice of every flattened parameter, updates that slice,
    and gets the others' from them: https://arxiv.org/abs/1910.02054.
    """

    settings: OptimizerSettings
    groups: RankGroups
    step: int = 0
    moments: dict[str, Moments] = field(default_factory=dict)

    @property
    def slices(self) -> int:
        """The number of slices of a parameter's state: 1 is the whole."""
        layout = self.groups.place.layout
        return layout.data if layout.zero_stage >= 2 else 1

    def prepare(self, parameters: Mapping[str, Tensor]) -> None:
        """Make the moments that are missing, of zeros."""
        for name, parameter in parameters.items():
            if name not in self.moments:
                empty = torch.zeros_like(self.cut_state(parameter))
                self.moments[name] = Moments(empty, empty.clone())

    def cut_state(self, tensor: Tensor) -> Tensor:
        """Return what this rank updates of a parameter: all of it, or its slice, padded with zeros."""
        if self.slices == 1:
            return tensor
        flat = pad_to_slices(tensor.flatten(), self.slices)
        return flat.chunk(self.slices)[self.groups.place.data]

    def join_state(self, part: Tensor, shape: torch.Size) -> Tensor:
        """Return the whole parameter of the slices of all data ranks."""
        if self.slices == 1:
            return part
        return self.groups.gather_slices(part, "data")[: shape.numel()].view(shape)

    def update(self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], scale: float) -> None:
        """Change the parameters in place by one step; gradients are multiplied by `scale` first."""
        self.step += 1
        for name, parameter in parameters.items():
            weight, gradient = self.cut_state(parameter).clone(), self.cut_state(gradients[name]) * scale
            decay = self.settings.weight_decay if is_decayed(parameter) else 0.0
            update_weight(weight, gradient, self.moments[name], self.settings, decay, self.step)
            parameter.copy_(self.join_state(weight, parameter.shape))


def update_weight(
    weight: Tensor, gradient: Tensor, moments: Moments, settings: OptimizerSettings, decay: float, step: int
) -> None:
    """Change a weight and its moments in place; `step` counts from 1."""
    weight.mul_(1 - settings.learning_rate * decay)
    moments.first.lerp_(gradient, 1 - settings.beta_1)
    moments.second.mul_(settings.beta_2).add_(gradient * gradient, alpha=1 - settings.beta_2)
    corrected_first, corrected_second = correct_moments(moments, settings, step)
    weight.sub_(settings.learning_rate * corrected_first / (corrected_second.sqrt() + settings.epsilon))


def correct_moments(moments: Moments, settings: OptimizerSettings, step: int) -> tuple[Tensor, Tensor]:
    """Return the moments as means over the steps so far: they began at zero."""
    return moments.first / (1 - settings.beta_1**step), moments.second / (1 - settings.beta_2**step)


def is_decayed(parameter: Tensor) -> bool:
    """Return whether weight decay applies: to matrices, not to norms and biases."""
    return parameter.ndim > 1


def pad_to_slices(flat: Tensor, slices: int) -> Tensor:
    """Return a vector with zeros at its end, so that it has equal slices."""
    return torch.nn.functional.pad(flat, (0, -len(flat) % slices))
