"""Which wrong AdamW gives the updates that a subject made: known mistakes, each computed on its own gradients. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ci.equivalence.adamw_oracle import OptimizerHistory, compute_scales, compute_updates, is_decayed
from ci.equivalence.relative_error import compute_relative_error

if TYPE_CHECKING:
    from ci.subjects.training import OptimizerSettings

MATCHES = 1e-3
"""A mistake explains updates where it gives them within this relative distance."""
RATIO_SPREAD = 1e-3


@dataclass(frozen=True)
class WrongAdamW:
    """AdamW with one mistake: each field changes one thing of the algorithm."""

    step_offset: int = 0
    frozen_step: bool = False
    corrected: bool = True
    decay: str = "matrices"
    decay_factor: float = 1.0
    decay_scaled: bool = True
    epsilon_place: str = "after"
    swapped_betas: bool = False
    forgets: tuple[str, ...] = ()
    clipped: str = "once"

    def compute_updates(self, history: OptimizerHistory, settings: OptimizerSettings) -> list[Tensor]:
        """Return by step what is added to the parameter, in float64."""
        beta_1, beta_2 = (settings.beta_1, settings.beta_2)[:: -1 if self.swapped_betas else 1]
        weight, updates = history.weight.double(), []
        first, second = torch.zeros_like(weight), torch.zeros_like(weight)
        for index, (raw, scale) in enumerate(zip(history.gradients, history.scales, strict=True)):
            gradient = raw.double() * self._choose_scale(scale, raw.double(), settings)
            if self.decay == "gradient":
                gradient = gradient + settings.weight_decay * weight
            first = torch.lerp(torch.zeros_like(first) if "first" in self.forgets else first, gradient, 1 - beta_1)
            kept = torch.zeros_like(second) if "second" in self.forgets else second
            second = beta_2 * kept + (1 - beta_2) * gradient**2
            step = (1 if self.frozen_step else index + 1) + self.step_offset
            size = self._divide(first, second, settings.epsilon, beta_1**step, beta_2**step)
            update = -settings.learning_rate * size - self._compute_decay(history.weight, settings) * weight
            updates.append(update)
            weight = weight + update
        return updates

    def _divide(self, first: Tensor, second: Tensor, epsilon: float, rest_1: float, rest_2: float) -> Tensor:
        """Return the moments' quotient; `rest_1` and `rest_2` are the betas to the power of the step."""
        above, below = (first / (1 - rest_1), second / (1 - rest_2)) if self.corrected else (first, second)
        root = below.sqrt() + epsilon
        if self.epsilon_place == "inside":
            root = (below + epsilon).sqrt()
        elif self.epsilon_place == "before":
            root = (second.sqrt() + epsilon) / (1 - rest_2) ** 0.5
        return above / root

    def _choose_scale(self, scale: float, gradient: Tensor, settings: OptimizerSettings) -> float:
        """Return the factor of a gradient; `scale` is the right one."""
        alone = compute_scales([float(gradient.norm())], settings.max_gradient_norm)[0]
        return {"once": scale, "never": 1.0, "twice": scale**2, "alone": alone}[self.clipped]

    def _compute_decay(self, weight: Tensor, settings: OptimizerSettings) -> float:
        decayed = {
            "matrices": is_decayed(weight),
            "all": True,
            "none": False,
            "vectors": not is_decayed(weight),
            "gradient": False,
        }
        rate = settings.learning_rate if self.decay_scaled else 1.0
        return rate * settings.weight_decay * self.decay_factor * decayed[self.decay]


RIGHT = WrongAdamW()
MISTAKES: Mapping[str, WrongAdamW] = {
    "AdamW's step is counted twice (bias correction of one step later)": replace(RIGHT, step_offset=1),
    "AdamW's step does not advance": replace(RIGHT, frozen_step=True),
    "AdamW's moments are not corrected for their start at zero": replace(RIGHT, corrected=False),
    "weight decay is added to the gradient (L2) instead of to the weight": replace(RIGHT, decay="gradient"),
    "weight decay is missing": replace(RIGHT, decay="none"),
    "weight decay is applied to norms and biases too": replace(RIGHT, decay="all"),
    "weight decay is applied to norms and biases instead of to matrices": replace(RIGHT, decay="vectors"),
    "weight decay is not multiplied by the learning rate": replace(RIGHT, decay_scaled=False),
    "weight decay is applied twice": replace(RIGHT, decay_factor=2.0),
    "weight decay has the wrong sign": replace(RIGHT, decay_factor=-1.0),
    "epsilon is inside the square root": replace(RIGHT, epsilon_place="inside"),
    "epsilon is added before the bias correction": replace(RIGHT, epsilon_place="before"),
    "beta 1 and beta 2 are swapped": replace(RIGHT, swapped_betas=True),
    "both moments are lost between the steps": replace(RIGHT, forgets=("first", "second")),
    "both moments and the step are lost between the steps": replace(
        RIGHT, forgets=("first", "second"), frozen_step=True
    ),
    "the first moment is lost between the steps": replace(RIGHT, forgets=("first",)),
    "the second moment is lost between the steps": replace(RIGHT, forgets=("second",)),
    "the gradient is not clipped": replace(RIGHT, clipped="never"),
    "the gradient is clipped twice": replace(RIGHT, clipped="twice"),
    "each parameter's gradient is clipped by its own norm": replace(RIGHT, clipped="alone"),
}
"""Known mistakes, in words that follow a parameter's name."""


@dataclass(frozen=True)
class ParameterUpdates:
    """A parameter's history and the updates that the subject made, by step."""

    name: str
    history: OptimizerHistory
    updates: Sequence[Tensor]


def find_optimizer_mistake(parameters: Sequence[ParameterUpdates], settings: OptimizerSettings) -> str:
    """Return the mistake that gives all these updates; empty where none does.

    `parameters` are those whose updates are wrong; a mistake that gives none of them otherwise is none.
    """
    for words, mistake in MISTAKES.items():
        if all(_matches(p.updates, mistake.compute_updates(p.history, settings), p.history) for p in parameters):
            return words
    return _find_clip_scale(parameters, settings) or _describe_ratio(parameters, settings)


def find_lost_slices(updates: Tensor, expected: Tensor, slices: int) -> list[int]:
    """Return the equal slices of a flattened parameter whose update is missing, as data ranks cut optimizer state."""
    flat = torch.stack([updates.flatten(), expected.flatten()])
    pieces = torch.nn.functional.pad(flat, (0, -flat.shape[1] % slices)).chunk(slices, dim=1)
    return [i for i, (actual, wanted) in enumerate(pieces) if not bool(actual.any()) and bool(wanted.any())]


def are_slices_swapped(updates: Tensor, history: OptimizerHistory, expected: Tensor, slices: int) -> bool:
    """Return whether the new weight has the right slices in the opposite order."""
    weight = history.weight.double()
    wanted = torch.nn.functional.pad((weight + expected).flatten(), (0, -weight.numel() % slices))
    swapped = torch.cat(wanted.chunk(slices)[::-1])[: weight.numel()].view_as(weight)
    return compute_relative_error(weight + updates, swapped) < MATCHES


def has_foreign_slices(parameter: ParameterUpdates, settings: OptimizerSettings, slices: int) -> bool:
    """Return whether each slice of the first update is that of the gradient's next slice."""
    history, count = parameter.history, parameter.history.weight.numel()
    flat = torch.nn.functional.pad(history.gradients[0].flatten(), (0, -count % slices))
    moved = flat.roll(len(flat) // slices)[:count].view_as(history.gradients[0])
    other = replace(history, gradients=(moved,), scales=history.scales[:1])
    return _matches(parameter.updates[:1], compute_updates(other, settings), history)


def _find_clip_scale(parameters: Sequence[ParameterUpdates], settings: OptimizerSettings) -> str:
    """Return the factor of clipping in the first step that explains all first updates, found by bisection."""
    low, high = 0.0, 4.0
    for _ in range(60):
        middle = (low + high) / 2
        grows = _sum_sizes(parameters, settings, middle) < sum(
            float(_without_decay(p, settings).norm()) for p in parameters
        )
        low, high = (middle, high) if grows else (low, middle)
    tried = [(p, _rescale(p, low * p.history.scales[0])) for p in parameters]
    if not all(_matches(p.updates[:1], compute_updates(history, settings)[:1], history) for p, history in tried):
        return ""
    return f"the gradient is clipped by {low:.3g} times the factor of its norm over all parameters"


def _sum_sizes(parameters: Sequence[ParameterUpdates], settings: OptimizerSettings, factor: float) -> float:
    plain = replace(settings, weight_decay=0.0)
    scaled = (_rescale(p, factor * p.history.scales[0]) for p in parameters)
    return sum(float(compute_updates(history, plain)[0].norm()) for history in scaled)


def _rescale(parameter: ParameterUpdates, scale: float) -> OptimizerHistory:
    history = parameter.history
    return replace(history, gradients=history.gradients[:1], scales=(scale,))


def _without_decay(parameter: ParameterUpdates, settings: OptimizerSettings) -> Tensor:
    weight = parameter.history.weight
    decay = settings.learning_rate * settings.weight_decay if is_decayed(weight) else 0.0
    return parameter.updates[0] + decay * weight.double()


def _describe_ratio(parameters: Sequence[ParameterUpdates], settings: OptimizerSettings) -> str:
    """Return the one factor by which all first updates differ from the right ones."""
    ratios = list(_list_ratios(parameters, settings))
    if (
        not ratios
        or any(map(math.isnan, ratios))
        or max(ratios) - min(ratios) > RATIO_SPREAD * max(abs(ratio) for ratio in ratios) + 1e-12
    ):
        return ""
    if ratios[0] == 0:
        return "it is not updated at all"
    return f"its update has {ratios[0]:.3g} of its size"


def _list_ratios(parameters: Sequence[ParameterUpdates], settings: OptimizerSettings) -> Iterator[float]:
    for parameter in parameters:
        expected = compute_updates(parameter.history, settings)[0]
        square = float((expected * expected).sum())
        ratio = float((parameter.updates[0] * expected).sum()) / square if square else float("nan")
        explained = compute_relative_error(parameter.updates[0], ratio * expected) if ratio else 0.0
        yield ratio if explained < MATCHES else float("nan")


def _matches(actual: Sequence[Tensor], expected: Sequence[Tensor], history: OptimizerHistory) -> bool:
    """Return whether updates are the expected ones, up to the float32 weights' rounding.

    An update that is small beside its weight is known no better than that.
    """
    rounding = torch.finfo(torch.float32).eps * float(history.weight.double().norm())
    pairs = zip(actual, expected, strict=True)
    return all(float((one - other).norm()) < MATCHES * float(other.norm()) + rounding for one, other in pairs)
