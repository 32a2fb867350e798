"""The rule for a served export: within a factor of the gap that the original has to Hugging Face in the same engine.

For each input and dtype, with the gap of the original as floor:

    error limit  = SERVED_TOLERANCE x max(floor's rms, SERVED_MIN_FLOOR)
    token limit  = SERVED_TOLERANCE x TOKEN_SLACK x max(floor's largest token, SERVED_MIN_FLOOR)

in nats. A greedy token may differ where both engines prefer theirs by at most SERVED_TIE_FACTOR token limits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ci.consumers.load_errors import SENTENCES, LoadFault, find_load_fault
from ci.consumers.score_files import Continuation, Scores
from ci.equivalence.served_greedy import count_equal_tokens, find_divergences
from ci.equivalence.served_routing import ServedFlips
from ci.equivalence.served_scores import (
    Gap,
    MismatchShares,
    bound_divergence,
    estimate_policy_divergence,
    find_first_beyond,
    mean_multiplicative_error,
    measure_gap,
)
from ci.equivalence.tolerances import (
    SERVED_LARGEST_TIE,
    SERVED_MIN_FLOOR,
    SERVED_TIE_FACTOR,
    SERVED_TOLERANCE,
    TOKEN_SLACK,
)
from ci.equivalence.verdict import Verdict, build_inconclusive_verdict
from ci.evidence import SERVED_LOGPROBS, FailureClass, Measure, ServedGap
from ci.subjects.base import DType
from ci.units import format_share_of_limit

LOGPROBS, GREEDY = SERVED_LOGPROBS, "served.greedy"
POSITION_BINS = 64
FAILURES: Mapping[LoadFault, FailureClass] = {
    "architecture_refused": "config_mismatch",
    "tensor_missing": "missing_tensor",
    "shape_mismatch": "shape_mismatch",
    "config_unknown": "config_mismatch",
    "context_short": "config_mismatch",
    "tokenizer_absent": "export_incomplete",
    "other": "other",
}


@dataclass(frozen=True)
class ServedCase:
    """One input in one dtype: what Hugging Face says of the original, and the engine of original and export.

    `keep` bool (B, T) are the real tokens. `flips` are tokens that another choice of experts explains.
    """

    name: str
    dtype: DType
    keep: Tensor
    hugging_face: Scores
    original: Scores
    export: Scores
    flips: ServedFlips | None = None

    @property
    def floor_gap(self) -> Gap:
        """The gap of the original, without the flips of either side."""
        return self._leave_out(self.original)

    @property
    def export_gap(self) -> Gap:
        """The gap of the export, without the flips of either side."""
        return self._leave_out(self.export)

    def _leave_out(self, side: Scores) -> Gap:
        gap = measure_gap(side.logprobs, self.hugging_face.logprobs, self.keep)
        return gap if self.flips is None else gap.without(self.flips.either)


@dataclass(frozen=True)
class ServedContinuation:
    """Greedy continuations of the same rows in one dtype: Hugging Face's, and the engine's of original and export."""

    dtype: DType
    hugging_face: Continuation
    original: Continuation
    export: Continuation


@dataclass(frozen=True)
class ServedResults:
    """All that was measured in one dtype; `mismatch` is the trainer's against the engine, where it was measured."""

    dtype: DType
    cases: tuple[ServedCase, ...]
    continuation: ServedContinuation
    mismatch: MismatchShares | None = None
    notes: tuple[str, ...] = ()
    coverage: Mapping[str, str] = field(default_factory=dict)


def build_served_verdict(results: ServedResults, engine: str) -> Verdict:
    """Build the verdict of one dtype; `engine` names the consumer in its sentences."""
    if unusable := next((case for case in results.cases if not math.isfinite(case.floor_gap.rms)), None):
        reason = (
            f"inconclusive: {engine}'s own scores of the original are not finite ({unusable.name}, {results.dtype})"
        )
        return build_inconclusive_verdict(reason, results.coverage)
    measures = [_measure_case(case) for case in results.cases]
    token_limit = max((measure.token_limit or 0.0 for measure in measures), default=0.0)
    measures.append(_measure_greedy(results.continuation, token_limit))
    failed = [measure for measure in measures if not measure.passed]
    worst = max(measures, key=lambda measure: (not measure.passed, measure.used))
    return Verdict(
        passed=not failed,
        failure_class=_classify(failed),
        diagnosis=_describe_failure(failed[0], results, engine) if failed else "",
        measures=tuple(measures),
        worst=worst,
        coverage=results.coverage,
        figures={f"{results.dtype}.{key}": value for key, value in _collect_figures(results).items()},
        notes=(*results.notes, *_describe_flips(results.cases), *_describe_mismatch(results, engine)),
        component="conversion" if failed else "",
        served=tuple(draw_positions(case) for case in results.cases[:1]),
    )


def build_refused_verdict(message: str, engine: str) -> Verdict:
    """Build the verdict of an export that an engine does not load although it loads the original."""
    fault = find_load_fault(message)
    sentence = f"{engine} serves the original and not the export: {SENTENCES[fault]}: {message}"
    return Verdict(passed=False, failure_class=FAILURES[fault], diagnosis=sentence, component="conversion")


def draw_positions(case: ServedCase) -> ServedGap:
    """Return the largest gap by position of original and export, in at most POSITION_BINS bins."""
    sides = [measure_gap(side.logprobs, case.hugging_face.logprobs, case.keep) for side in (case.original, case.export)]
    length = case.keep.shape[1]
    width = math.ceil(length / POSITION_BINS)
    starts = tuple(range(0, length, width))
    lines = [side.largest_by_position() for side in sides]
    original, export = (tuple(max(line[start : start + width]) for start in starts) for line in lines)
    return ServedGap(case.name, case.dtype, starts, original, export)


def _measure_case(case: ServedCase) -> Measure:
    floor, export, least = case.floor_gap, case.export_gap, SERVED_MIN_FLOOR[case.dtype]
    rms, token = max(floor.rms, least), max(floor.largest, least)
    limit, token_limit = SERVED_TOLERANCE * rms, SERVED_TOLERANCE * TOKEN_SLACK[case.dtype] * token
    usable = floor.tokens > 0
    place = export.worst
    return Measure(
        tensor=LOGPROBS,
        dtype=case.dtype,
        shape=tuple(case.keep.shape),
        error=export.rms,
        limit=limit if usable else math.inf,
        floor=rms,
        ratio=export.rms / rms,
        max_abs=export.largest,
        worst_index=place,
        expected=float(case.hugging_face.logprobs[place]),
        actual=float(case.export.logprobs[place]),
        passed=usable and export.rms <= limit and export.largest <= token_limit,
        case=case.name,
        token_error=export.largest,
        token_limit=token_limit if usable else math.inf,
    )


def _measure_greedy(continuation: ServedContinuation, token_limit: float) -> Measure:
    """Measure the largest distance over which a greedy token of the export differs from the original's."""
    found = find_divergences(continuation.export, continuation.original)
    limit = min(SERVED_TIE_FACTOR * token_limit, SERVED_LARGEST_TIE)
    distance = max((one.distance for one in found), default=0.0)
    first = next((one for one in found if one.distance > limit), None)
    return Measure(
        tensor=GREEDY,
        dtype=continuation.dtype,
        shape=tuple(continuation.export.ids.shape),
        error=distance,
        limit=limit,
        passed=distance <= limit,
        worst_index=(first.row, first.step) if first else (),
        expected=float(first.expected) if first else None,
        actual=float(first.actual) if first else None,
        case="greedy",
    )


def _classify(failed: Sequence[Measure]) -> FailureClass | None:
    if not failed:
        return None
    return "non_finite" if math.isinf(failed[0].error) and failed[0].tensor == LOGPROBS else "numeric_mismatch"


def _describe_failure(measure: Measure, results: ServedResults, engine: str) -> str:
    if measure.tensor == GREEDY:
        found = find_divergences(results.continuation.export, results.continuation.original)
        first = next(one for one in found if one.distance > measure.limit)
        return f"{engine} continues the export otherwise than the original ({measure.dtype}): {first}"
    share = format_share_of_limit(measure.used)
    return (
        f"{engine} scores the export's tokens {measure.error:.3g} nats from Hugging Face, the original's "
        f"{measure.floor:.3g} ({measure.dtype}, {measure.case}): {share}{_say_where(measure, results.cases)}"
    )


def _say_where(measure: Measure, cases: Sequence[ServedCase]) -> str:
    """Say from which position of a text on the gap is beyond every token's limit: a window or RoPE shows late."""
    case = next(case for case in cases if case.name == measure.case)
    first = find_first_beyond(case.export_gap, case.keep, measure.token_limit or math.inf)
    return "" if first is None else f"; the first token beyond its own limit is at position {first}"


def _collect_figures(results: ServedResults) -> dict[str, float]:
    """Collect the distribution of both gaps, and the figures that other projects name, over all inputs."""
    floor, export = (_join([getattr(case, name) for case in results.cases]) for name in ("floor_gap", "export_gap"))
    first = results.cases[0]
    figures = {"served_tokens": float(export.tokens), "served_comparisons": float(len(results.cases) + 1)}
    figures |= {**_collect_gap("original", floor), **_collect_gap("export", export)}
    figures["served_export_kl_bound"] = bound_divergence(first.export, first.hugging_face, first.keep)
    figures["served_export_to_original_max"] = max(
        measure_gap(case.export.logprobs, case.original.logprobs, case.keep).largest for case in results.cases
    )
    return {**figures, **_collect_continuation(results), **_collect_flips(results), **_collect_mismatch(results)}


def _collect_gap(name: str, gap: Gap) -> dict[str, float]:
    p50, p90, p99 = gap.quantiles()
    return {
        f"served_{name}_rms": gap.rms,
        f"served_{name}_p50": p50,
        f"served_{name}_p90": p90,
        f"served_{name}_p99": p99,
        f"served_{name}_max": gap.largest,
        f"served_{name}_token_mult_prob_error": mean_multiplicative_error(gap),
        f"served_{name}_kl_k3": estimate_policy_divergence(gap),
    }


def _collect_continuation(results: ServedResults) -> dict[str, float]:
    continued = results.continuation
    tokens = float(continued.export.ids.numel())
    return {
        "served_greedy_equal": count_equal_tokens(continued.export, continued.original) / tokens,
        "served_greedy_equal_to_hugging_face": count_equal_tokens(continued.export, continued.hugging_face) / tokens,
    }


def _collect_flips(results: ServedResults) -> dict[str, float]:
    if not (flips := [case.flips for case in results.cases if case.flips]):
        return {}
    return {
        "served_original_flips": float(sum(int(one.original.sum()) for one in flips)),
        "served_export_flips": float(sum(int(one.export.sum()) for one in flips)),
    }


def _collect_mismatch(results: ServedResults) -> dict[str, float]:
    if (mismatch := results.mismatch) is None:
        return {}
    return {
        "trainer_rollout_rms": mismatch.total,
        "trainer_hugging_face_rms": mismatch.trainer,
        "hugging_face_rollout_rms": mismatch.engine,
        "trainer_rollout_engine_share": mismatch.engine_share,
    }


def _join(gaps: Sequence[Gap]) -> Gap:
    """Return the gaps of all inputs as one."""
    values = torch.cat([gap.values[gap.where] for gap in gaps])[None]
    return Gap(values, torch.ones_like(values, dtype=torch.bool), sum(gap.infinite for gap in gaps))


def _describe_flips(cases: Sequence[ServedCase]) -> list[str]:
    return [
        f"{case.name}, {case.dtype}: {int(case.flips.original.sum())} tokens of the original and "
        f"{int(case.flips.export.sum())} of the export are explained by another choice of experts at a near tie"
        for case in cases
        if case.flips and bool(case.flips.either.any())
    ]


def _describe_mismatch(results: ServedResults, engine: str) -> list[str]:
    if (mismatch := results.mismatch) is None:
        return []
    said = (
        f"trainer against rollout, {results.dtype}: {mismatch.total:.3g} nats rms; {mismatch.engine_share:.0%} of its "
        f"square is Hugging Face's own gap to {engine} ({mismatch.engine:.3g}), the rest the trainer's gap to Hugging "
        f"Face ({mismatch.trainer:.3g}); test_forward_equivalence says in which layer that grows"
    )
    return [said]
