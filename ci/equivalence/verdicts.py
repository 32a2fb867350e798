"""From walks to a verdict: measures, figures and the one sentence. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ci.equivalence.diagnose import growth
from ci.equivalence.floors import Limits
from ci.equivalence.inputs import Case
from ci.equivalence.sensitivity import WRONG
from ci.equivalence.walk import TOP_EXPERTS, Walked, layer_of
from ci.evidence import FailureClass, Heat, LayerRouting, Measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci.equivalence.compare import Difference
    from ci.equivalence.diagnose import Diagnosis
    from ci.equivalence.roundtrip import ConfigFinding, TensorFinding
    from ci.equivalence.sensitivity import KeyFinding

MEASURES = 160
"""A verdict carries at most this many measures: every failing one first, then blocks and head, then the closest."""
SPECIFICATION = {"rms_rel": 3e-3, "rms_abs": 5e-4, "max_rel": 1.5e-2, "max_abs": 5e-3}
"""The specification's fixed thresholds (Fast-LLM's CompareConfig), reported but not what decides."""


@dataclass(frozen=True)
class Judged:
    """One case in one dtype: its walk, its limits, what ran, and where the subject's trace lies."""

    case: Case
    limits: Limits
    walked: Walked
    ran: Mapping[str, str]
    path: Path
    fed: bool = False

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
        return bool(self.walked.problems) or any(not measure.passed for measure in self.measures())

    def measures(self) -> list[Measure]:
        """Every tensor against its limits, in execution order."""
        found = []
        for name, difference in self.walked.differences.items():
            found.append(self._measure(name, difference))
        found += [self._flip_measure(name, gap) for name, gap in self.walked.flips.items() if gap]
        return sorted(found, key=lambda measure: order_of(measure.tensor))

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


@dataclass(frozen=True)
class Verdict:
    """What was found. `worst` is the tensor closest to, or farthest beyond, its limit; `figures` are dimensionless.

    Where red, `diagnosis` is one sentence that names the layer, the operation, the suspect and the half; `layer`,
    `operation` and `half` are its parts, `tensor` the captured tensor that is wrong on right input.
    """

    passed: bool
    failure_class: FailureClass | None = None
    diagnosis: str = ""
    measures: tuple[Measure, ...] = ()
    worst: Measure | None = None
    coverage: Mapping[str, str] = field(default_factory=dict)
    ran: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    half: str = ""
    layer: int | None = None
    operation: str = ""
    tensor: str = ""
    heat: Heat | None = None
    routing: tuple[LayerRouting, ...] = ()


def verdict(judged: Sequence[Judged], *, coverage: Mapping[str, str]) -> Verdict:
    """The verdict over the cases of one dtype and variant."""
    measures = worst_by_tensor(measure for one in judged for measure in one.measures())
    worst = max(measures, key=lambda measure: (not measure.passed, measure.used), default=None)
    problems = [problem for one in judged for problem in one.walked.problems]
    red = any(one.red for one in judged)
    return Verdict(
        passed=not red,
        failure_class=(problems[0].failure_class if problems else "numeric_mismatch") if red else None,
        diagnosis=(problems[0].message if problems else first_red(measures)) if red else "",
        measures=bounded(measures),
        worst=worst,
        coverage=coverage,
        ran=judged[0].ran,
        figures=figures(judged, measures),
        notes=notes(judged),
        heat=heat(judged, worst),
        routing=routing_of(judged),
    )


def round_trip(tensors: Sequence[TensorFinding], config: Sequence[ConfigFinding], stock: Verdict) -> Verdict:
    """There and back: tensors first, then semantic config keys, then the exported checkpoint's own forward."""
    semantic = [finding for finding in config if finding.kind == "semantic"]
    red = [*(finding.message for finding in tensors), *map(str, semantic)]
    more = f" (and {len(red) - 1} more)" if len(red) > 1 else ""
    forward = f"the exported checkpoint in stock Hugging Face: {stock.diagnosis}"
    failure: FailureClass | None = "config_mismatch" if semantic else stock.failure_class
    counts = {"tensors_changed": float(len(tensors)), "semantic_keys_changed": float(len(semantic))}
    return replace(
        stock,
        passed=stock.passed and not red,
        failure_class=tensors[0].failure_class if tensors else failure,
        diagnosis=f"conversion there and back: {red[0]}{more}" if red else forward if not stock.passed else "",
        half="conversion" if red or not stock.passed else "",
        figures={**{f"round_trip.{key}": value for key, value in stock.figures.items()}, **counts},
        notes=tuple(f"config {finding}" for finding in config if finding.kind == "metadata"),
    )


def explained(found: Verdict, why: Diagnosis) -> Verdict:
    """The verdict with its diagnosis."""
    place = why.place
    curve = (growth(found.measures),) if found.failure_class == "numeric_mismatch" else ()
    return replace(
        found,
        diagnosis=str(why),
        half=why.half,
        layer=place.layer,
        operation=place.operation,
        tensor=place.tensor,
        notes=(*found.notes, *curve),
    )


def sensitivity(findings: Sequence[KeyFinding]) -> Verdict:
    """Every config key that was tried; red where one is ignored or converted to something else."""
    wrong = [finding for finding in findings if finding.found in WRONG]
    counts = Counter(finding.found for finding in findings)
    return Verdict(
        passed=not wrong,
        failure_class="config_mismatch" if wrong else None,
        diagnosis="; ".join(map(str, wrong)),
        half="conversion" if wrong else "",
        coverage={f"config key {finding.change.name}": finding.found for finding in findings},
        figures={f"config_keys_{found.replace(' ', '_')}": float(count) for found, count in counts.items()},
        notes=tuple(str(finding) for finding in findings if finding.found == "refused"),
    )


def gradients(measures: Sequence[Measure]) -> Verdict:
    """Every parameter's gradient; the last wrong one in the order of the forward is where the backward went wrong."""
    wrong = [measure for measure in measures if not measure.passed]
    worst = max(measures, key=lambda measure: measure.used, default=None)
    said = f"{wrong[-1].tensor} [kernel] is {wrong[-1].ratio:.3g} noise floors off" if wrong else ""
    more = f", as are {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return Verdict(
        passed=not wrong,
        failure_class="numeric_mismatch" if wrong else None,
        diagnosis=f"backward pass: {said}{more}" if wrong else "",
        measures=tuple(sorted(measures, key=lambda measure: -measure.used)[:MEASURES]),
        worst=worst,
        half="kernel" if wrong else "",
        figures={"gradients.used": worst.used if worst else 0.0, "gradients.ratio": (worst and worst.ratio) or 0.0},
    )


def unsupported(reason: str) -> Verdict:
    """What was asked for is not there to be judged: no pass."""
    return Verdict(passed=False, failure_class="unsupported", diagnosis=reason)


def first_red(measures: Sequence[Measure]) -> str:
    """The first tensor in execution order that leaves its limit, in plain words."""
    first = next(measure for measure in measures if not measure.passed)
    return f"{first.tensor} is the first tensor to leave the reference's noise: {first.used:.3g} times its limit"


def did_not_run(variant: Mapping[str, str], ran: Mapping[str, str]) -> dict[str, str]:
    """Axis → what ran instead, for each axis of the variant that did not run as asked."""
    return {axis: ran.get(axis, "nothing reported") for axis, name in variant.items() if ran.get(axis) != name}


def not_run(missing: Mapping[str, str], judged: Sequence[Judged], coverage: Mapping[str, str]) -> Verdict:
    """A variant that was asked for and did not execute is never a pass, whatever the numbers are."""
    said = ", ".join(f"{axis}: {name} ran instead" for axis, name in missing.items())
    return Verdict(
        passed=False,
        failure_class="variant_did_not_run",
        diagnosis=f"variant did not run ({said})",
        ran=judged[-1].ran,
        coverage=coverage,
    )


def no_yardstick(reason: str, coverage: Mapping[str, str]) -> Verdict:
    """Hugging Face disagrees with itself: nothing can be said about the subject, and that is no pass."""
    return Verdict(passed=False, failure_class="environment", diagnosis=reason, coverage=coverage)


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


def figures(judged: Sequence[Judged], measures: Sequence[Measure]) -> dict[str, float]:
    """Dimensionless figures that stay visible while green, named by dtype."""
    dtype = judged[0].limits.dtype
    found = {
        "tensors": float(sum(len(one.walked.differences) for one in judged)),
        "comparisons": float(len(judged)),
        "used": max((measure.used for measure in measures), default=0.0),
        "ratio": max((measure.ratio or 0.0 for measure in measures), default=0.0),
        "excused_by_flips": max(one.excused for one in judged),
    }
    found |= {key: value for one in judged[:1] for key, value in one.walked.logits.items()}
    logits = next((measure for measure in judged[0].measures() if measure.tensor == "logits"), None)
    if logits:
        found |= {
            "logits_error": logits.error,
            "logits_floor": logits.floor or 0.0,
            "logits_ratio": logits.ratio or 0.0,
        }
    found |= {f"specification_{key}": value for key, value in specification(measures, judged[0].limits).items()}
    return {f"{dtype}.{key}": value for key, value in found.items()}


def specification(measures: Sequence[Measure], limits: Limits) -> dict[str, float]:
    """How much of the specification's fixed thresholds the worst tensor uses: 1.0 would fail."""
    return {
        key: max((getattr(m, key) for m in measures), default=0.0) / (limit * limits.compare_factor)
        for key, limit in SPECIFICATION.items()
    }


def notes(judged: Sequence[Judged]) -> tuple[str, ...]:
    """What a reader must know to read the figures right."""
    said = []
    for one in judged:
        where = f"{one.case.name}, {one.limits.dtype}: rounding flips of experts excused"
        if one.fed and one.limits.dtype != "float32":
            said.append(f"{where} most tokens, so each block was judged alone on the reference's input")
        elif one.excused:
            said.append(f"{where} up to {one.excused:.1%} of the tokens")
    return tuple(said)


def routing_of(judged: Sequence[Judged]) -> tuple[LayerRouting, ...]:
    """The routing of every layer and case, where there are experts."""
    return tuple(
        replace(layer, case=one.label, dtype=one.limits.dtype) for one in judged for layer in one.walked.routing
    )


HEAT_ROWS, HEAT_COLUMNS = 66, 64


def heat(judged: Sequence[Judged], worst: Measure | None) -> Heat | None:
    """Block by position, for the case that holds the worst tensor: log10(token error / limit), binned."""
    one = next((one for one in judged if worst and one.label == worst.case), None)
    if one is None:
        return None
    blocks = [name for name in one.walked.differences if "." not in name.removeprefix("decoder.")]
    blocks = blocks[:: max(1, math.ceil(len(blocks) / HEAT_ROWS))]
    length = one.case.ids.shape[1]
    width = math.ceil(length / HEAT_COLUMNS)
    starts = tuple(range(0, length, width))
    values = tuple(tuple(_cell(one, name, start, start + width) for start in starts) for name in blocks)
    return Heat(one.label, one.limits.dtype, tuple(blocks), starts, values)


def _cell(one: Judged, name: str, start: int, stop: int) -> float:
    errors = one.walked.differences[name].by_token[:, start:stop].nan_to_num(nan=0.0)
    return round(math.log10(max(float(errors.max()) / one.limits.token_error(name), 1e-6)), 2)
