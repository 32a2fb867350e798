"""What rounding leaves in an operation's output, as figures with a standard error; a larger figure is less precise.

Each is a mean over tokens. Values of one token share its statistics (a norm's RMS, a softmax's sum), so the standard
error counts tokens, not values: a binomial one over values would be too small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MISROUNDED, GAIN, GAIN_BIAS, CHANNEL_GAIN, SCALE_BIAS, ANGLE = (
    *("misrounded", "gain", "gain bias", "channel gain", "scale bias", "angle"),
)


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error, both dimensionless."""

    value: float
    error: float

    @classmethod
    def of_mean(cls, samples: Tensor) -> Estimate:
        """Return the mean of (N,) samples and its standard error."""
        samples = samples.double().flatten()
        error = float(samples.std()) / len(samples) ** 0.5 if len(samples) > 1 else 0.0
        return cls(float(samples.mean()), error)

    @classmethod
    def of_root_mean(cls, squares: Tensor) -> Estimate:
        """Return the root of the mean of (N,) squares and its standard error."""
        mean = cls.of_mean(squares)
        root = max(mean.value, 0.0) ** 0.5
        return cls(root, mean.error / (2 * root) if root else 0.0)

    @property
    def size(self) -> float:
        """The value without its sign: a bias may have either."""
        return abs(self.value)


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent figures."""
    count = len(estimates)
    return Estimate(sum(e.value for e in estimates) / count, sum(e.error**2 for e in estimates) ** 0.5 / count)


def measure_rounding(actual: Tensor, exact: Tensor, keep: Tensor) -> Iterator[tuple[str, Estimate]]:
    """Yield the statistics of an output in low precision against the exact one.

    Both are (B, T, …, channels), the exact one float64.
    *misrounded*: the share of values that are not the nearest to the exact one. *gain*: the RMS of the factor by which
    all channels of a token are off together, *gain bias* its mean.
    """
    actual, exact = actual.reshape(exact.shape)[keep], exact[keep]
    yield MISROUNDED, Estimate.of_mean((actual != exact.to(actual.dtype)).double().flatten(1).mean(1))
    error = actual.double() - exact
    scale = exact.square().sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
    gain = ((error * exact).sum(-1) / scale).reshape(len(exact), -1)
    yield GAIN, Estimate.of_root_mean(gain.square().mean(1))
    yield GAIN_BIAS, Estimate.of_mean(gain.mean(1))


def measure_channel_gain(actual: Tensor, exact: Tensor, keep: Tensor) -> Estimate:
    """Return the RMS of the factor by which all tokens of a channel are off together."""
    actual, exact = actual.reshape(exact.shape)[keep].double(), exact[keep]
    scale = exact.square().sum(0).clamp(min=torch.finfo(torch.float64).tiny)
    return Estimate.of_root_mean((((actual - exact) * exact).sum(0) / scale).square())


def measure_scale_bias(actual: Tensor, exact: Tensor, derivative: Tensor, keep: Tensor) -> Estimate:
    """Return the relative error of the softmax scale that explains most of a context's error."""
    error = (actual.reshape(exact.shape).double() - exact)[keep].flatten(1)
    slope = derivative[keep].flatten(1)
    mean = slope.square().sum(1).mean().clamp(min=torch.finfo(torch.float64).tiny)
    return Estimate.of_mean((error * slope).sum(1) / mean)


def measure_angle(actual: Tensor, expected: Tensor, positions: Tensor, keep: Tensor) -> Estimate:
    """Return the RMS angle, in radians, by which all heads at a position are turned together.

    `actual` and `expected` are (B, T, heads, D), channel i paired with i + D / 2; `positions` int64 (B, T).
    """
    here, there = actual[keep].double(), expected[keep].double()
    (first, second), (wanted, other) = here.chunk(2, -1), there.chunk(2, -1)
    turned = (wanted * second - other * first).sum(1)
    scale = (wanted.square() + other.square()).sum(1)
    cells = torch.zeros(2, int(positions.max()) + 1, turned.shape[-1], dtype=torch.float64, device=here.device)
    cells.index_add_(1, positions[keep], torch.stack([turned, scale]))
    reached = cells[1].sum(-1) > 0
    angles = cells[0][reached] / cells[1][reached].clamp(min=torch.finfo(torch.float64).tiny)
    return Estimate.of_root_mean(angles.square().mean(1))
