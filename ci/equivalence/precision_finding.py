"""A precision finding in words: which operation rounds more than right implementations do, by how much, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.equivalence.precision_statistics import (
    ANGLE,
    CHANNEL_GAIN,
    GAIN,
    GAIN_BIAS,
    MISROUNDED,
    SCALE_BIAS,
    Estimate,
    average,
)
from ci.equivalence.rounding_floor import count_deviations
from ci.subjects.base import DType
from ci.tensor_names import CONTEXT, KEY, NORM_1, QUERY, ROUTER_SCORES, layer_of, operation_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SUSPECTS = {
    (NORM_1, GAIN): "statistics in {dtype}?",
    (NORM_1, MISROUNDED): "rounded more than once?",
    (NORM_1, GAIN_BIAS): "statistics accumulated in {dtype}?",
    (NORM_1, CHANNEL_GAIN): "its weight rounded?",
    (CONTEXT, GAIN): "softmax in {dtype}?",
    (CONTEXT, GAIN_BIAS): "softmax's sum accumulated in {dtype}?",
    (CONTEXT, SCALE_BIAS): "softmax scale rounded to {dtype}?",
    (CONTEXT, MISROUNDED): "scores or probabilities rounded more than once?",
    (ROUTER_SCORES, MISROUNDED): "router's softmax in {dtype}?",
    (ROUTER_SCORES, GAIN): "router's softmax in {dtype}?",
    (ROUTER_SCORES, GAIN_BIAS): "router's softmax accumulated in {dtype}?",
    (QUERY, ANGLE): "RoPE's angles or frequencies in {dtype}?",
}
"""What most often is behind an excess, by operation (norms under `norm_1`, query and key under query)."""


@dataclass(frozen=True)
class PrecisionFinding:
    """One operation whose `statistic` is beyond what right implementations measure."""

    tensor: str
    statistic: str
    dtype: DType
    found: Estimate
    floor: Estimate
    deviations: float
    layers: int = 1

    def __str__(self) -> str:
        """Say operation, layer, figure, floor and suspect in one line."""
        operation, layer = operation_of(self.tensor), layer_of(self.tensor)
        where = operation if layer is None else f"{operation} in layer {layer}"
        where = f"{where} (with {self.layers} layers together)" if self.layers > 1 else where
        suspect = SUSPECTS[find_kind(operation), self.statistic].format(dtype=self.dtype)
        if self.statistic == MISROUNDED:
            what = (
                f"{self.found.value:.1%} of its values are not the nearest {self.dtype}, at most {self.floor.value:.1%}"
            )
        else:
            what = f"its {self.statistic} is off by {self.found.size:.2g}, at most {self.floor.size:.2g}"
        return f"precision: {where} is right but imprecise: {what} in right implementations ({suspect})"


@dataclass(frozen=True)
class Figure:
    """One statistic of one tensor, or of `layers` of them together, and that of each right implementation."""

    tensor: str
    statistic: str
    found: Estimate
    floors: tuple[Estimate, ...]
    layers: int = 1

    @property
    def floor(self) -> Estimate:
        """The least precise right implementation."""
        return max(self.floors, key=lambda estimate: estimate.size)

    def judge(self, dtype: DType) -> PrecisionFinding:
        """Return the figure as a finding; whether it is one, its deviations say."""
        deviations = count_deviations(self.found, self.floor, dtype, share=self.statistic == MISROUNDED)
        return PrecisionFinding(self.tensor, self.statistic, dtype, self.found, self.floor, deviations, self.layers)


def pool_layers(figures: Sequence[Figure], dtype: DType) -> Iterator[Figure]:
    """Yield each statistic of an operation over all layers, under the name of the worst layer.

    Biases keep their signs: those of rounding cancel, that of a mistake does not. Each right implementation is averaged
    alone, before the least precise one is taken.
    """
    pools: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        pools.setdefault((operation_of(figure.tensor), figure.statistic), []).append(figure)
    for (_, statistic), pool in pools.items():
        if len(pool) > 1:
            worst = max(pool, key=lambda figure: figure.judge(dtype).deviations)
            floors = tuple(average(layers) for layers in zip(*(figure.floors for figure in pool), strict=False))
            yield Figure(worst.tensor, statistic, average([figure.found for figure in pool]), floors, len(pool))


def find_kind(operation: str) -> str:
    """Return the operation that stands for its kind: norm_1 for every norm, query for a key."""
    if operation in (CONTEXT, ROUTER_SCORES):
        return operation
    return QUERY if operation in (QUERY, KEY) else NORM_1
