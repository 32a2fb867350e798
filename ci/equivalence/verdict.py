"""From compared cases to a verdict: measures, figures, notes, and one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ci.equivalence.case_result import CaseComparison, keep_worst_per_tensor, limit_measures
from ci.equivalence.diagnosis import describe_growth
from ci.equivalence.tensor_location import locate_tensor
from ci.equivalence.tolerances import SPECIFICATION_LIMITS
from ci.evidence import Companion, FailureClass, Heat, LayerRouting, Measure, ServedGap
from ci.tensor_names import LOGITS, is_block_level, operation_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.equivalence.diagnosis import Diagnosis
    from ci.equivalence.precision_finding import PrecisionFinding
    from ci.equivalence.tolerances import Tolerances
    from ci.models import Policy

HEAT_ROWS, HEAT_COLUMNS = 66, 64


@dataclass(frozen=True)
class Verdict:
    """The result of one check. `worst` is the tensor closest to its limit, or farthest beyond it.

    Where the check failed, `diagnosis` is one sentence that names layer, operation, suspect and component; `layer`,
    `operation` and `component` are its parts, `tensor` the captured tensor that is wrong on right input. `figures` are
    dimensionless, but for seconds and bytes, which say so in their names. `warnings` are findings that do not fail.
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
    warnings: tuple[str, ...] = ()
    component: str = ""
    layer: int | None = None
    operation: str = ""
    tensor: str = ""
    heat: Heat | None = None
    routing: tuple[LayerRouting, ...] = ()
    served: tuple[ServedGap, ...] = ()
    companions: tuple[Companion, ...] = ()


def build_verdict(cases: Sequence[CaseComparison], *, coverage: Mapping[str, str]) -> Verdict:
    """Build the verdict over the cases of one dtype and variant.

    One inconclusive case makes it inconclusive.
    """
    if reason := next((case.inconclusive for case in cases if case.inconclusive), ""):
        return build_inconclusive_verdict(reason, coverage)
    measures = keep_worst_per_tensor(measure for case in cases for measure in case.measures)
    worst = max(measures, key=lambda measure: (not measure.passed, measure.used), default=None)
    problems = [problem for case in cases for problem in case.diff.problems]
    failed = any(case.failed for case in cases)
    return Verdict(
        passed=not failed,
        failure_class=(problems[0].failure_class if problems else "numeric_mismatch") if failed else None,
        diagnosis=(problems[0].message if problems else _describe_first_failure(measures)) if failed else "",
        measures=limit_measures(measures),
        worst=worst,
        coverage=coverage,
        ran=cases[0].ran,
        figures=_collect_figures(cases, measures),
        notes=_collect_notes(cases),
        heat=_build_heat_map(cases, worst),
        routing=_collect_routing(cases),
    )


def build_inconclusive_verdict(reason: str, coverage: Mapping[str, str]) -> Verdict:
    """Build the verdict where nothing can be said about the subject.

    The subject has not passed, and it is not to blame.
    """
    return Verdict(passed=False, failure_class="environment", diagnosis=reason, coverage=coverage)


def build_not_run_verdict(case: CaseComparison, coverage: Mapping[str, str]) -> Verdict:
    """Build the verdict for a variant that did not execute.

    It never passes, whatever the numbers are.
    """
    instead = ", ".join(f"{axis}: {name} ran instead" for axis, name in case.substitutes.items())
    return Verdict(
        passed=False,
        failure_class="variant_did_not_run",
        diagnosis=f"variant did not run ({instead})",
        ran=case.ran,
        coverage=coverage,
    )


def add_diagnosis(verdict: Verdict, diagnosis: Diagnosis) -> Verdict:
    """Return the verdict with its diagnosis."""
    location = diagnosis.location
    curve = (describe_growth(verdict.measures),) if verdict.failure_class == "numeric_mismatch" else ()
    return replace(
        verdict,
        diagnosis=str(diagnosis),
        component=diagnosis.component,
        layer=location.layer,
        operation=location.operation,
        tensor=location.tensor,
        notes=(*verdict.notes, *curve),
    )


def apply_policy(verdict: Verdict, findings: tuple[str, ...], failure: FailureClass, policy: Policy) -> Verdict:
    """Return the verdict with findings as warnings, or failed for the first of them under the policy "strict".

    A verdict that failed already keeps its own reason.
    """
    if not findings or policy == "warn" or not verdict.passed:
        return replace(verdict, warnings=(*verdict.warnings, *findings))
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return replace(
        verdict,
        passed=False,
        failure_class=failure,
        diagnosis=f"{findings[0]}{more}",
        warnings=(*verdict.warnings, *findings),
    )


def add_precision(verdict: Verdict, findings: Sequence[PrecisionFinding], policy: Policy) -> Verdict:
    """Return the verdict with the findings of the precision lens: warnings, or a failure under "strict"."""
    judged = apply_policy(verdict, tuple(map(str, findings)), "precision", policy)
    if judged.failure_class != "precision":
        return judged
    location = locate_tensor(findings[0].tensor)
    place = {"layer": location.layer, "operation": location.operation, "tensor": findings[0].tensor}
    return replace(judged, component="kernel", **place)  # type: ignore[arg-type]


def find_substitutes(variant: Mapping[str, str], ran: Mapping[str, str]) -> dict[str, str]:
    """Map each axis of the variant that did not run as asked to what ran instead."""
    return {axis: ran.get(axis, "nothing reported") for axis, name in variant.items() if ran.get(axis) != name}


def describe_uncaptured(cases: Sequence[CaseComparison]) -> dict[str, str]:
    """Say which tensors one side could not capture, so that nothing was compared.

    Empty without any.
    """
    names = dict.fromkeys(name for case in cases for name in case.diff.not_captured)
    if not names:
        return {}
    operations = ", ".join(dict.fromkeys(locate_tensor(name).operation for name in names))
    return {"captures": f"not covered: {len(names)} tensors are not captured ({operations})"}


def measure_specification(measures: Sequence[Measure], tolerances: Tolerances) -> dict[str, float]:
    """Return the share that the worst tensor uses of each fixed threshold of the specification."""
    return {
        key: max((getattr(m, key) for m in measures), default=0.0) / (limit * tolerances.compare_factor)
        for key, limit in SPECIFICATION_LIMITS.items()
    }


def _describe_first_failure(measures: Sequence[Measure]) -> str:
    first = next(measure for measure in measures if not measure.passed)
    return f"{first.tensor} is the first tensor to leave the reference's noise"


def _collect_figures(cases: Sequence[CaseComparison], measures: Sequence[Measure]) -> dict[str, float]:
    """Collect the figures that a report also shows for what passed, named by dtype."""
    first = cases[0]
    figures = {
        "tensors": float(sum(len(case.diff.tensors) for case in cases)),
        "comparisons": float(len(cases)),
        "used": max((measure.used for measure in measures), default=0.0),
        "ratio": max((measure.ratio or 0.0 for measure in measures), default=0.0),
        "excused_by_flips": max(case.excused_share for case in cases),
        **first.diff.predictions,
    }
    if logits := next((measure for measure in first.measures if measure.tensor == LOGITS), None):
        figures |= {
            "logits_error": logits.error,
            "logits_floor": logits.floor or 0.0,
            "logits_ratio": logits.ratio or 0.0,
        }
    shares = measure_specification(measures, first.tolerances)
    figures |= {f"specification_{key}": share for key, share in shares.items()}
    return {f"{first.tolerances.dtype}.{key}": value for key, value in figures.items()}


def _collect_notes(cases: Sequence[CaseComparison]) -> tuple[str, ...]:
    """Collect what a reader must know to read the figures right."""
    notes = []
    for case in cases:
        excused = f"{case.case.name}, {case.tolerances.dtype}: rounding flips of experts excused"
        if case.teacher_forced and case.tolerances.dtype != "float32":
            notes.append(f"{excused} most tokens, so each block was compared alone, on the reference's input")
        elif case.excused_share:
            notes.append(f"{excused} up to {case.excused_share:.1%} of the tokens")
        notes += _describe_symmetries(case)
    return tuple(dict.fromkeys(notes))


def _describe_symmetries(case: CaseComparison) -> list[str]:
    """Say which internal tensors are equal up to an exact symmetry; one line a symmetry."""
    operations: dict[str, list[str]] = {}
    for name, symmetry in case.symmetries.items():
        operations.setdefault(symmetry, []).append(operation_of(name))
    return [
        f"equal up to an exact symmetry, so right: {', '.join(dict.fromkeys(names))} ({symmetry})"
        for symmetry, names in operations.items()
    ]


def _collect_routing(cases: Sequence[CaseComparison]) -> tuple[LayerRouting, ...]:
    return tuple(
        replace(layer, case=case.label, dtype=case.tolerances.dtype) for case in cases for layer in case.diff.routing
    )


def _build_heat_map(cases: Sequence[CaseComparison], worst: Measure | None) -> Heat | None:
    """Build block by position for the case of the worst tensor.

    A value is log10(largest token error of the bin / limit).
    """
    case = next((case for case in cases if worst and case.label == worst.case), None)
    if case is None:
        return None
    blocks = [name for name in case.diff.tensors if is_block_level(name)]
    blocks = blocks[:: max(1, math.ceil(len(blocks) / HEAT_ROWS))]
    length = case.case.ids.shape[1]
    width = math.ceil(length / HEAT_COLUMNS)
    starts = tuple(range(0, length, width))
    values = tuple(tuple(_measure_bin(case, name, start, start + width) for start in starts) for name in blocks)
    return Heat(case.label, case.tolerances.dtype, tuple(blocks), starts, values)


def _measure_bin(case: CaseComparison, name: str, start: int, stop: int) -> float:
    errors = case.diff.tensors[name].by_token[:, start:stop].nan_to_num(nan=0.0)
    return round(math.log10(max(float(errors.max()) / case.tolerances.get_token_limit(name), 1e-6)), 2)
