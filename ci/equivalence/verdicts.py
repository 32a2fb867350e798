"""From walks to a verdict: measures, figures and the one sentence. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ci.equivalence.diagnose import growth, place_of
from ci.equivalence.figures import figures, heat, notes, routing_of
from ci.equivalence.judged import MEASURES, Judged, bounded, worst_by_tensor
from ci.equivalence.sensitivity import WRONG
from ci.evidence import FailureClass, Heat, LayerRouting, Measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.equivalence.diagnose import Diagnosis
    from ci.equivalence.roundtrip import ConfigFinding, TensorFinding
    from ci.equivalence.sensitivity import KeyFinding


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
    """The verdict over the cases of one dtype and variant; none where some case gives no yardstick."""
    if reason := next((one.no_yardstick for one in judged if one.no_yardstick), ""):
        return no_yardstick(reason, coverage)
    measures = worst_by_tensor(measure for one in judged for measure in one.measures)
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
    """Every config key that was tried; red where one is ignored or converted to something else, none on nothing."""
    wrong = [finding for finding in findings if finding.found in WRONG]
    counts = Counter(finding.found for finding in findings)
    if not wrong and not counts["alike"] + counts["refused"]:
        return no_yardstick("no config key that was tried moves Hugging Face's own answer: nothing was shown", {})
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
    """Every parameter's gradient; the last wrong one in the order of the forward is where the backward went wrong.

    Raises ValueError without any.
    """
    wrong = [measure for measure in measures if not measure.passed]
    worst = max(measures, key=lambda measure: measure.used)
    said = f"{wrong[-1].tensor} [kernel] is {wrong[-1].ratio:.3g} noise floors off" if wrong else ""
    more = f", as are {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return Verdict(
        passed=not wrong,
        failure_class="numeric_mismatch" if wrong else None,
        diagnosis=f"backward pass: {said}{more}" if wrong else "",
        measures=tuple(sorted(measures, key=lambda measure: -measure.used)[:MEASURES]),
        worst=worst,
        half="kernel" if wrong else "",
        figures={"gradients.used": worst.used, "gradients.ratio": worst.ratio or 0.0},
    )


def first_red(measures: Sequence[Measure]) -> str:
    """The first tensor in execution order that leaves its limit, in plain words."""
    first = next(measure for measure in measures if not measure.passed)
    return f"{first.tensor} is the first tensor to leave the reference's noise: {first.used:.3g} times its limit"


def did_not_run(variant: Mapping[str, str], ran: Mapping[str, str]) -> dict[str, str]:
    """Axis → what ran instead, for each axis of the variant that did not run as asked."""
    return {axis: ran.get(axis, "nothing reported") for axis, name in variant.items() if ran.get(axis) != name}


def not_run(judged: Sequence[Judged], coverage: Mapping[str, str]) -> Verdict:
    """A variant that was asked for and did not execute is never a pass, whatever the numbers are."""
    said = ", ".join(f"{axis}: {name} ran instead" for axis, name in judged[-1].instead.items())
    return Verdict(
        passed=False,
        failure_class="variant_did_not_run",
        diagnosis=f"variant did not run ({said})",
        ran=judged[-1].ran,
        coverage=coverage,
    )


def captured(judged: Sequence[Judged]) -> dict[str, str]:
    """The captures that one side could not give, so that nothing was compared there; empty where there are none."""
    found = dict.fromkeys(name for one in judged for name in one.walked.not_captured)
    if not found:
        return {}
    names = list(dict.fromkeys(place_of(name).operation for name in found))
    return {"captures": f"not covered: {len(found)} tensors are not captured ({', '.join(names)})"}


def no_yardstick(reason: str, coverage: Mapping[str, str]) -> Verdict:
    """Hugging Face disagrees with itself: nothing can be said about the subject, and that is no pass."""
    return Verdict(passed=False, failure_class="environment", diagnosis=reason, coverage=coverage)
