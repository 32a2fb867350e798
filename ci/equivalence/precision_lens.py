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

from torch import Tensor

from ci.equivalence.operation_formulas import AttentionFormula, Formula, NormFormula, find_formulas
from ci.equivalence.precision_finding import Figure, PrecisionFinding, find_kind, pool_layers
from ci.equivalence.precision_statistics import (
    ANGLE,
    CHANNEL_GAIN,
    MISROUNDED,
    SCALE_BIAS,
    Estimate,
    measure_angle,
    measure_channel_gain,
    measure_rounding,
    measure_scale_bias,
)
from ci.equivalence.rounding_floor import Statistics, perturb_in_order
from ci.equivalence.tolerances import LENS_DEVIATIONS, LENS_LEAST
from ci.subjects.base import DType
from ci.subjects.forward import DTYPES
from ci.subjects.trace_files import TraceReader
from ci.tensor_names import (
    CONTEXT,
    EMBEDDINGS,
    FINAL_NORM,
    KEY,
    MIXER,
    NORM_1,
    NORM_2,
    QUERY,
    ROUTER_SCORES,
    block_name,
    execution_order,
    is_vision,
    layer_of,
    operation_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    ReadTensor = Callable[[str], Tensor]


def is_lens_dtype(dtype: DType) -> bool:
    """Return whether the lens judges this dtype: bfloat16 or float16."""
    return dtype in LENS_LEAST


@dataclass
class PrecisionLens:
    """Measures traces of one input case against the expected trace; `keep` is bool (B, T), the real tokens.

    Without `attends` no attention is computed: its scores would not fit.
    """

    expected: TraceReader
    config: Mapping[str, Any]
    keep: Tensor
    device: str = "cpu"
    attends: bool = True
    floors: dict[DType, list[Statistics]] = field(default_factory=dict)
    _errors: dict[DType, Tensor] = field(default_factory=dict)

    @cached_property
    def formulas(self) -> dict[str, Formula]:
        """The operations that a formula explains."""
        names = tuple(n for n in _list_judged(self.expected) if self.attends or operation_of(n) != CONTEXT)
        return dict(find_formulas(names, self._read(self.expected), self.config, self.keep.to(self.device)))

    @property
    def operations(self) -> int:
        """How many operations of one run are judged at most: those with a formula, and query and key."""
        return len(self.formulas) + sum(operation_of(name) in (QUERY, KEY) for name in _list_judged(self.expected))

    def add_floor(self, trace: TraceReader) -> None:
        """Measure a run of Hugging Face in low precision as one of the right implementations."""
        self.floors.setdefault(trace.result.dtype, []).append(self.measure(trace))
        self._errors.setdefault(trace.result.dtype, self._find_error(trace))

    def correlate(self, trace: TraceReader) -> float:
        """Return the correlation of the error before the head with that of Hugging Face's first run.

        It is near 1 for the same roundings, near 0 for independent ones. It is reported and decides nothing.
        """
        here, there = self._find_error(trace), self._errors[trace.result.dtype]
        size = float(here.norm() * there.norm())
        return float(here.flatten() @ there.flatten()) / size if size else 0.0

    def describe_coverage(self) -> str:
        """Say which operations have a formula, and which a formula should explain and does not."""
        kinds = (NORM_1, NORM_2, CONTEXT, ROUTER_SCORES, FINAL_NORM)
        wanted = [name for name in _list_judged(self.expected) if operation_of(name) in kinds]
        judged = ", ".join(dict.fromkeys(operation_of(name) for name in wanted if name in self.formulas))
        missing = ", ".join(dict.fromkeys(operation_of(name) for name in wanted if name not in self.formulas))
        said = f"{judged or 'no operation'} in float64 on the run's own input; angles of query and key"
        said += "; not covered: the vision tower" if any(map(is_vision, self.expected)) else ""
        return f"not covered: no formula explains {missing}; {said}" if missing else said

    def _find_error(self, trace: TraceReader) -> Tensor:
        """Return the error of the final norm (tokens, hidden), float32."""
        error = trace.tensor(FINAL_NORM).double() - self.expected.tensor(FINAL_NORM).double()
        return error[self.keep].float()

    def measure(self, trace: TraceReader, feed: TraceReader | None = None) -> dict[tuple[str, str], Estimate]:
        """Measure every operation of a run; with `feed` its blocks were fed that trace."""
        read, measured = self._read(trace, feed), self._measure_angles(trace)
        for name, gauge in self._make_gauges(trace, read):
            measured |= {(name, s): e for s, e in gauge.measure_best(read(name)).items()}
        return measured

    def find(
        self, trace: TraceReader, *, feed: TraceReader | None = None, excused: Collection[str] = ()
    ) -> list[PrecisionFinding]:
        """Return the findings of a subject's run in the order of execution, one a tensor.

        A statistic is judged in each layer, and over all layers together: a mistake is seldom in one layer alone.
        Tensors in `excused` are equal only up to a symmetry; their layer's attention has no formula then.
        """
        dtype = trace.result.dtype
        figures = [figure for figure in self._compare(trace, feed) if not _is_excused(figure.tensor, excused)]
        worst: dict[str, PrecisionFinding] = {}
        for finding in (figure.judge(dtype) for figure in (*figures, *pool_layers(figures, dtype))):
            known = worst.get(finding.tensor)
            if finding.deviations > LENS_DEVIATIONS and (known is None or finding.deviations > known.deviations):
                worst[finding.tensor] = finding
        return sorted(worst.values(), key=lambda finding: execution_order(finding.tensor))

    def _compare(self, trace: TraceReader, feed: TraceReader | None) -> Iterator[Figure]:
        """Yield each figure of a subject's run with those of right implementations."""
        read, dtype = self._read(trace, feed), trace.result.dtype
        hugging_face = self.floors.get(dtype, ())
        for (name, statistic), found in self._measure_angles(trace).items():
            if floors := tuple(run[name, statistic] for run in hugging_face if (name, statistic) in run):
                yield Figure(name, statistic, found, floors)
        for name, gauge in self._make_gauges(trace, read):
            orders = [gauge.measure(output, 0) for output in perturb_in_order(gauge.formula, gauge.inputs[0], dtype)]
            for statistic, found in gauge.measure_best(read(name)).items():
                theirs = tuple(run[name, statistic] for run in hugging_face if (name, statistic) in run)
                yield Figure(name, statistic, found, (*theirs, *(order[statistic] for order in orders)))

    def _make_gauges(self, trace: TraceReader, read: ReadTensor) -> Iterator[tuple[str, _Gauge]]:
        """Yield each captured operation whose inputs were captured too."""
        for name, formula in self.formulas.items():
            known = formula.limit_to(trace) if name in trace else None
            if known is not None:
                yield name, _Gauge(known, tuple(known.read_inputs(read)), self.keep.to(self.device))

    def _measure_angles(self, trace: TraceReader) -> dict[tuple[str, str], Estimate]:
        names = [n for n in _list_judged(trace) if operation_of(n) in (QUERY, KEY) and n in self.expected]
        read, expected = self._read(trace), self._read(self.expected)
        pairs = {name: (read(name), expected(name)) for name in names}
        whole = {name: pair for name, pair in pairs.items() if pair[1].shape[-1] % 2 == 0}
        return {(name, ANGLE): self._measure_angle(*pair) for name, pair in whole.items()}

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


def _list_judged(trace: TraceReader) -> list[str]:
    """List the tensors of the decoder: positions and causality of the formulas are those of tokens, not of patches."""
    return [name for name in trace if not is_vision(name)]


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


def _is_excused(name: str, excused: Collection[str]) -> bool:
    if find_kind(operation_of(name)) in (QUERY, CONTEXT):
        return any(layer_of(name) == layer_of(other) and MIXER in other for other in excused)
    return name in excused
