"""One compared case as measures: every tensor against its limits, in the order of execution. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ci.equivalence.floors import Limits
from ci.equivalence.inputs import Case
from ci.equivalence.walk import TOP_EXPERTS, Walked, layer_of
from ci.evidence import Measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci.equivalence.compare import Difference

BLIND = 0.95
"""Where near ties of the router excuse more than this share of the tokens of some tensor, it was not compared."""
MEASURES = 160
"""A verdict carries at most this many measures: every failing one first, then blocks and head, then the closest."""


@dataclass(frozen=True)
class Judged:
    """One case in one dtype: its walk, its limits, what ran, and where the subject's trace lies or, where green, lay.

    `instead` maps what was asked for and did not run (an axis of the variant, the dtype, the device) to what did.
    """

    case: Case
    limits: Limits
    walked: Walked
    ran: Mapping[str, str]
    path: Path
    fed: bool = False
    instead: Mapping[str, str] = field(default_factory=dict)

    @property
    def no_yardstick(self) -> str:
        """Why nothing can be said: the limits cannot be trusted, or next to no token is left to compare; else empty."""
        if self.limits.untrusted:
            return self.limits.untrusted
        if self.excused > BLIND:
            return (
                f"{self.label}, {self.limits.dtype}: rounding flips of experts excuse {self.excused:.1%} of the "
                "tokens, so that the experts' answers are not compared: no verdict on routing this close to ties"
            )
        return ""

    @property
    def excused(self) -> float:
        """The largest share of real tokens that flipped choices of experts excused, over all tensors."""
        real = int(self.case.keep.sum())
        kept = [int((~d.by_token.isnan()).sum()) for d in self.walked.differences.values()]
        return 1 - min(kept, default=real) / real

    @property
    def label(self) -> str:
        """The case, and whether each block was fed the reference's input."""
        return f"{self.case.name}, block by block" if self.fed else self.case.name

    @property
    def red(self) -> bool:
        """Whether this case fails."""
        return bool(self.walked.problems) or any(not measure.passed for measure in self.measures)

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """Every tensor against its limits, in execution order."""
        found = []
        for name, difference in self.walked.differences.items():
            found.append(self._measure(name, difference))
        found += [self._flip_measure(name, gap) for name, gap in self.walked.flips.items() if gap]
        return tuple(sorted(found, key=lambda measure: order_of(measure.tensor)))

    def _measure(self, name: str, found: Difference) -> Measure:
        limits = self.limits
        passed = found.error <= limits.error(name) and found.token_error <= limits.token_error(name)
        floor = limits.floor(name).error
        return Measure(
            tensor=name,
            dtype=limits.dtype,
            shape=(*self.case.ids.shape, *found.shape[2:]),
            error=found.error,
            limit=limits.error(name),
            floor=floor,
            ratio=found.error / floor,
            max_abs=found.max_abs,
            rms_abs=found.rms_abs,
            rms_rel=found.rms_rel,
            max_rel=found.max_rel,
            worst_index=found.worst_index,
            expected=found.expected,
            actual=found.actual,
            passed=passed,
            case=self.label,
            token_error=found.token_error,
            token_limit=limits.token_error(name),
        )

    def _flip_measure(self, name: str, gap: float) -> Measure:
        limit = self.limits.gap(name)
        return Measure(
            tensor=name,
            dtype=self.limits.dtype,
            shape=tuple(self.case.ids.shape),
            error=gap,
            limit=limit,
            passed=gap <= limit,
            case=self.label,
        )


def worst_by_tensor(measures: Iterable[Measure]) -> list[Measure]:
    """One measure a tensor, that of the case which used most of its tolerance; in execution order."""
    worst: dict[str, Measure] = {}
    for measure in measures:
        known = worst.get(measure.tensor)
        if known is None or (not measure.passed, measure.used) > (not known.passed, known.used):
            worst[measure.tensor] = measure
    return sorted(worst.values(), key=lambda measure: order_of(measure.tensor))


def bounded(measures: Sequence[Measure]) -> tuple[Measure, ...]:
    """At most MEASURES of them, still in execution order."""
    ranked = sorted(measures, key=lambda m: (m.passed, "." in m.tensor.removeprefix("decoder."), -m.used))
    return tuple(sorted(ranked[:MEASURES], key=lambda measure: order_of(measure.tensor)))


ORDER = (
    "norm_1",
    "mixer.query",
    "mixer.key",
    "mixer.value",
    "mixer.context",
    "mixer",
    "mixer_residual",
    "norm_2",
    "mlp.router_logits",
    TOP_EXPERTS,
    "mlp.router_scores",
    "mlp",
    "",
)
"""The operations of a block in execution order; the empty name is the block's output."""


def order_of(name: str) -> tuple[int, int]:
    """Where a tensor stands in the order of execution."""
    layer = layer_of(name)
    if layer is None:
        return (-1, 0) if name == "embeddings" else (1 << 30, int(name == "logits"))
    operation = name.removeprefix(f"decoder.{layer}").removeprefix(".")
    return layer, ORDER.index(operation) if operation in ORDER else len(ORDER)
