"""Tells mistakes of precision: an operation that is right, and rounds more than any right implementation does.

The native-dtype tolerance is blind below two noise floors. Here each operation is computed in float64 on the run's own
captured input, so that no noise of earlier operations is in the figure. RoPE is compared with the expected trace: its
input is not captured, but a wrong angle turns every head and row of a position alike, which rounding does not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ci.equivalence.operation_formulas import AttentionFormula, Formula, NormFormula, find_formulas
from ci.equivalence.precision_statistics import (
    ANGLE,
    CHANNEL_GAIN,
    GAIN,
    GAIN_BIAS,
    MISROUNDED,
    SCALE_BIAS,
    Estimate,
    measure_angle,
    measure_channel_gain,
    measure_rounding,
    measure_scale_bias,
)
from ci.equivalence.rounding_floor import find_excess, merge_floors, perturb_in_order
from ci.equivalence.tolerances import LENS_DEVIATIONS
from ci.subjects.forward import DTYPES
from ci.tensor_names import (
    CONTEXT,
    EMBEDDINGS,
    KEY,
    MIXER,
    NORM_1,
    QUERY,
    ROUTER_SCORES,
    block_name,
    execution_order,
    layer_of,
    operation_of,
)

if TYPE_CHECKING:
    from ci.equivalence.rounding_floor import Statistics
    from ci.subjects.base import DType
    from ci.subjects.trace_files import TraceReader

    ReadTensor = Callable[[str], Tensor]

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

    def __str__(self) -> str:
        """Say operation, layer, figure, floor and suspect in one line."""
        operation, layer = operation_of(self.tensor), layer_of(self.tensor)
        where = operation if layer is None else f"{operation} in layer {layer}"
        suspect = SUSPECTS[_kind_of(operation), self.statistic].format(dtype=self.dtype)
        if self.statistic == MISROUNDED:
            what = f"{self.found.value:.1%} of its values are not the nearest {self.dtype}, at most {self.floor.value:.1%}"
        else:
            what = f"its {self.statistic} is off by {self.found.value:.2g}, at most {self.floor.value:.2g}"
        return f"precision: {where} is right but imprecise: {what} in right implementations ({suspect})"


@dataclass
class PrecisionLens:
    """Measures traces of one input case against the expected trace; `keep` is bool (B, T), the real tokens."""

    expected: TraceReader
    config: Mapping[str, Any]
    keep: Tensor
    device: str = "cpu"
    floors: dict[DType, list[Statistics]] = field(default_factory=dict)

    @cached_property
    def formulas(self) -> dict[str, Formula]:
        """The operations that a formula explains."""
        names = tuple(self.expected)
        return dict(find_formulas(names, self._read(self.expected), self.config, self.keep.to(self.device)))

    def add_floor(self, trace: TraceReader) -> None:
        """Measure a run of Hugging Face in low precision as one of the right implementations."""
        self.floors.setdefault(trace.result.dtype, []).append(self.measure(trace))

    def measure(self, trace: TraceReader, feed: TraceReader | None = None) -> dict[tuple[str, str], Estimate]:
        """Measure every operation of a run; with `feed` its blocks were fed that trace."""
        read, measured = self._read(trace, feed), {}
        for name in self._judged(trace):
            measured |= {(name, s): e for s, e in self._make_gauge(name, read).measure_best(read(name)).items()}
        return measured | self._measure_angles(trace)

    def find(
        self, trace: TraceReader, *, feed: TraceReader | None = None, excused: Collection[str] = ()
    ) -> list[PrecisionFinding]:
        """Return the findings of a subject's run, the worst statistic of each tensor, in the order of execution.

        Tensors in `excused` are equal only up to a symmetry; their layer's attention has no formula then.
        """
        dtype, read = trace.result.dtype, self._read(trace, feed)
        floors = merge_floors(self.floors.get(dtype, ()))
        findings = [
            _find_worst(name, {ANGLE: found}, {ANGLE: floors[name, ANGLE]} if (name, ANGLE) in floors else {}, dtype)
            for (name, _), found in self._measure_angles(trace).items()
        ]
        for name in self._judged(trace):
            gauge = self._make_gauge(name, read)
            orders = [gauge.measure(output, 0) for output in perturb_in_order(gauge.formula, gauge.inputs[0], dtype)]
            hugging_face = {statistic: floor for (n, statistic), floor in floors.items() if n == name}
            floor = merge_floors([hugging_face, *orders])
            findings.append(_find_worst(name, gauge.measure_best(read(name)), floor, dtype))
        found = (f for f in findings if f is not None and not _is_excused(f.tensor, excused))
        return sorted(found, key=lambda finding: execution_order(finding.tensor))

    def _judged(self, trace: TraceReader) -> list[str]:
        return [name for name in self.formulas if name in trace]

    def _make_gauge(self, name: str, read: ReadTensor) -> _Gauge:
        return _Gauge(self.formulas[name], tuple(self.formulas[name].read_inputs(read)), self.keep.to(self.device))

    def _measure_angles(self, trace: TraceReader) -> dict[tuple[str, str], Estimate]:
        names = [name for name in trace if operation_of(name) in (QUERY, KEY) and name in self.expected]
        read, expected = self._read(trace), self._read(self.expected)
        return {(name, ANGLE): self._measure_angle(read(name), expected(name)) for name in names}

    def _measure_angle(self, actual: Tensor, expected: Tensor) -> Estimate:
        keep = self.keep.to(self.device)
        positions = (keep.long().cumsum(-1) - 1).clamp(min=0)
        return measure_angle(actual, expected, positions, keep)

    def _read(self, trace: TraceReader, feed: TraceReader | None = None) -> ReadTensor:
        """Return a function that reads a tensor; block inputs come from `feed`, in the trace's dtype."""
        dtype = DTYPES[trace.result.dtype]

        def read(name: str) -> Tensor:
            if feed is not None and (name == EMBEDDINGS or name == block_name(layer_of(name) or 0)):
                return feed.tensor(name).to(self.device, dtype)
            return trace.tensor(name).to(self.device)

        return read


@dataclass(frozen=True)
class _Gauge:
    """Measures outputs of one operation; `inputs` are the captured ones first, `keep` bool (B, T)."""

    formula: Formula
    inputs: tuple[tuple[Tensor, ...], ...]
    keep: Tensor

    @cached_property
    def exact(self) -> tuple[Tensor, ...]:
        """The exact output for each of the inputs."""
        return tuple(self.formula.compute(inputs) for inputs in self.inputs)

    @cached_property
    def slope(self) -> Tensor | None:
        """The derivative of a context by the logarithm of its softmax scale."""
        return self.formula.differentiate_scale(self.inputs[0]) if isinstance(self.formula, AttentionFormula) else None

    def measure_best(self, output: Tensor) -> dict[str, Estimate]:
        """Return the statistics of an output on the input that fits it best."""
        measured = (self.measure(output, number) for number in range(len(self.inputs)))
        return min(measured, key=lambda statistics: statistics[MISROUNDED].value)

    def measure(self, output: Tensor, number: int) -> dict[str, Estimate]:
        """Return the statistics of an output on one of the inputs."""
        exact = self.exact[number]
        statistics = dict(measure_rounding(output, exact, self.keep))
        if isinstance(self.formula, NormFormula):
            statistics[CHANNEL_GAIN] = measure_channel_gain(output, exact, self.keep)
        if self.slope is not None:
            statistics[SCALE_BIAS] = measure_scale_bias(output, exact, self.slope, self.keep)
        return statistics


def _find_worst(
    name: str, measured: Mapping[str, Estimate], floors: Mapping[str, Estimate], dtype: DType
) -> PrecisionFinding | None:
    """Return the statistic that is farthest beyond its floor, where one is too far."""
    findings = [
        PrecisionFinding(name, s, dtype, found, floors[s], find_excess(found, floors[s], dtype, share=s == MISROUNDED))
        for s, found in measured.items()
        if s in floors
    ]
    worst = max(findings, key=lambda finding: finding.deviations, default=None)
    return worst if worst is not None and worst.deviations > LENS_DEVIATIONS else None


def _is_excused(name: str, excused: Collection[str]) -> bool:
    if _kind_of(operation_of(name)) in (QUERY, CONTEXT):
        return any(layer_of(name) == layer_of(other) and MIXER in other for other in excused)
    return name in excused


def _kind_of(operation: str) -> str:
    if operation in (CONTEXT, ROUTER_SCORES):
        return operation
    return QUERY if operation in (QUERY, KEY) else NORM_1
