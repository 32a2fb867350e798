"""The result of one compared input case: every tensor against its limits, in the order of execution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ci.equivalence.inputs import InputCase
from ci.equivalence.tolerances import INCONCLUSIVE_SHARE, Tolerances
from ci.equivalence.trace_compare import TraceDiff
from ci.evidence import Measure
from ci.tensor_names import execution_order, is_block_level, is_vision

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci.equivalence.tensor_compare import TensorDiff

MAX_MEASURES = 160
"""A verdict carries at most this many measures: failed ones first, then blocks and head, then the closest."""


@dataclass(frozen=True)
class CaseComparison:
    """One case in one dtype: its diff, its tolerances, what ran, and the path of the subject's trace.

    The trace is removed once the case has passed. `substitutes` maps what was asked for and did not run (an axis of the
    variant, the dtype, the device) to what ran instead. With `teacher_forced` each block was fed the expected input.
    `symmetries` maps the tensors that were compared after an exact symmetry was undone to that symmetry in words.
    """

    case: InputCase
    tolerances: Tolerances
    diff: TraceDiff
    ran: Mapping[str, str]
    path: Path
    teacher_forced: bool = False
    substitutes: Mapping[str, str] = field(default_factory=dict)
    symmetries: Mapping[str, str] = field(default_factory=dict)

    @property
    def inconclusive(self) -> str:
        """Why nothing can be said: untrusted floors, or next to no token left to compare; else empty."""
        if self.tolerances.untrusted:
            return self.tolerances.untrusted
        if self.excused_share > INCONCLUSIVE_SHARE:
            return (
                f"inconclusive: {self.label}, {self.tolerances.dtype}: the router is so close to ties that rounding "
                f"may have chosen other experts for {self.excused_share:.1%} of the tokens, which were not compared"
            )
        return ""

    @property
    def excused_share(self) -> float:
        """The share of real tokens that flipped choices of experts excused, in the tensor that lost most.

        A vision tower's tensors have values at image tokens only, so they say nothing about it.
        """
        real = int(self.case.keep.sum())
        tensors = (tensor for name, tensor in self.diff.tensors.items() if not is_vision(name))
        kept = [int((~tensor.by_token.isnan()).sum()) for tensor in tensors]
        return 1 - min(kept, default=real) / real

    @property
    def label(self) -> str:
        """The case, and whether each block was fed the expected input."""
        return f"{self.case.name}, block by block" if self.teacher_forced else self.case.name

    @property
    def failed(self) -> bool:
        """Whether a problem ended the comparison or a tensor is beyond its limit."""
        return bool(self.diff.problems) or any(not measure.passed for measure in self.measures)

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """Every tensor against its limits, in the order of execution."""
        measures = [self._measure_tensor(name, tensor) for name, tensor in self.diff.tensors.items()]
        measures += [self._measure_flips(name, gap) for name, gap in self.diff.flip_gaps.items() if gap]
        return tuple(sorted(measures, key=lambda measure: execution_order(measure.tensor)))

    def _measure_tensor(self, name: str, tensor: TensorDiff) -> Measure:
        error_limit, token_limit = self.tolerances.get_error_limit(name), self.tolerances.get_token_limit(name)
        floor = self.tolerances.get_floor(name).error
        return Measure(
            tensor=name,
            dtype=self.tolerances.dtype,
            shape=(*self.case.ids.shape, *tensor.shape[2:]),
            error=tensor.error,
            limit=error_limit,
            floor=floor,
            ratio=tensor.error / floor,
            max_abs=tensor.max_abs,
            rms_abs=tensor.rms_abs,
            rms_rel=tensor.rms_rel,
            max_rel=tensor.max_rel,
            worst_index=tensor.worst_index,
            expected=tensor.expected,
            actual=tensor.actual,
            passed=tensor.error <= error_limit and tensor.token_error <= token_limit,
            case=self.label,
            token_error=tensor.token_error,
            token_limit=token_limit,
            symmetry=self.symmetries.get(name, ""),
        )

    def _measure_flips(self, name: str, gap: float) -> Measure:
        limit = self.tolerances.get_flip_gap_limit(name)
        return Measure(
            tensor=name,
            dtype=self.tolerances.dtype,
            shape=tuple(self.case.ids.shape),
            error=gap,
            limit=limit,
            passed=gap <= limit,
            case=self.label,
        )


def keep_worst_per_tensor(measures: Iterable[Measure]) -> list[Measure]:
    """Keep one measure a tensor: of the case that used most of its tolerance.

    The result is in the order of execution.
    """
    worst: dict[str, Measure] = {}
    for measure in measures:
        known = worst.get(measure.tensor)
        if known is None or (not measure.passed, measure.used) > (not known.passed, known.used):
            worst[measure.tensor] = measure
    return sorted(worst.values(), key=lambda measure: execution_order(measure.tensor))


def limit_measures(measures: Sequence[Measure]) -> tuple[Measure, ...]:
    """Keep at most MAX_MEASURES, still in the order of execution."""
    ranked = sorted(measures, key=lambda m: (m.passed, not is_block_level(m.tensor), -m.used))
    return tuple(sorted(ranked[:MAX_MEASURES], key=lambda measure: execution_order(measure.tensor)))
