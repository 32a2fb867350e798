"""The rule: within a factor of the original's own gap, whatever that is; a floor that is no number passes nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from ci.consumers.score_files import Continuation, Scores
from ci.equivalence.served_routing import ServedFlips
from ci.equivalence.served_scores import MismatchShares
from ci.equivalence.served_verdict import (
    GREEDY,
    POSITION_BINS,
    ServedCase,
    ServedContinuation,
    ServedResults,
    build_refused_verdict,
    build_served_verdict,
    draw_positions,
)
from ci.equivalence.tolerances import SERVED_TOLERANCE, TOKEN_SLACK
from ci.report.evidence_requirements import is_usable

if TYPE_CHECKING:
    from ci.equivalence.verdict import Verdict
    from ci.subjects.base import DType

KEEP = torch.ones(2, 100, dtype=torch.bool)
NOISE = torch.randn(2, 100, generator=torch.Generator().manual_seed(5))


def make_scores(noise: float | torch.Tensor) -> Scores:
    logprobs = (torch.full(KEEP.shape, -4.0) + noise).float()
    top = torch.full((*KEEP.shape, 2), -1.0)
    return Scores(logprobs, torch.ones((*KEEP.shape, 2), dtype=torch.int64), top)


def make_continuation(token: int, distance: float = 0.0) -> Continuation:
    other = 3 - token
    return Continuation(
        torch.tensor([[token]]), torch.tensor([[[token, other]]]), torch.tensor([[[-1.0, -1.0 - distance]]])
    )


def judge(
    original: float | torch.Tensor,
    export: float | torch.Tensor,
    *,
    dtype: DType = "bfloat16",
    continued: Continuation | None = None,
    flips: ServedFlips | None = None,
    mismatch: MismatchShares | None = None,
) -> Verdict:
    sides = (make_scores(0.0), make_scores(original), make_scores(export))
    case = ServedCase("batch", dtype, KEEP, *sides, flips)
    same = make_continuation(1)
    results = ServedResults(dtype, (case,), ServedContinuation(dtype, same, same, continued or same), mismatch)
    return build_served_verdict(results, "engine 1")


@pytest.mark.parametrize("scale", [1e-3, 0.02, 0.3])
@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (SERVED_TOLERANCE * 0.99, True), (1.3, False), (9, False)])
def test_an_export_passes_within_the_factor_of_its_originals_gap(scale: float, factor: float, passed: bool) -> None:
    scale = max(scale, 2.0**-8)  # one rounding: a smaller gap is no floor
    verdict = judge(scale * NOISE, factor * scale * NOISE)
    assert verdict.passed is passed
    assert verdict.failure_class == (None if passed else "numeric_mismatch")


def test_one_wrong_token_among_many_is_found() -> None:
    export = 0.02 * NOISE
    export[1, 50] = 1.02 * SERVED_TOLERANCE * TOKEN_SLACK["bfloat16"] * float((0.02 * NOISE).abs().max())
    verdict = judge(0.02 * NOISE, export)
    assert verdict.worst is not None
    assert verdict.worst.error <= verdict.worst.limit, "the mean does not show it"
    assert not verdict.passed
    assert verdict.worst.worst_index == (1, 50)
    assert "engine 1 scores the export's tokens" in verdict.diagnosis


def test_equal_scores_pass_whatever_the_floor() -> None:
    assert judge(0.0, 0.0, dtype="float32").passed
    assert not judge(0.0, 1e-4, dtype="float32").passed


@pytest.mark.parametrize("export", [math.nan, -math.inf])
def test_an_export_that_is_not_finite_is_red(export: float) -> None:
    noise = 0.02 * NOISE
    wrong = noise.clone()
    wrong[0, 9] = export
    verdict = judge(noise, wrong)
    assert (verdict.passed, verdict.failure_class) == (False, "non_finite")


def test_a_floor_that_is_not_finite_passes_nothing() -> None:
    wrong = 0.02 * NOISE
    wrong[0, 9] = math.nan
    verdict = judge(wrong, wrong)
    assert (verdict.passed, verdict.failure_class) == (False, "environment")
    assert "scores of the original are not finite" in verdict.diagnosis


def test_a_comparison_of_no_token_passes_nothing() -> None:
    everything = ServedFlips(KEEP, KEEP)
    verdict = judge(0.02 * NOISE, 0.02 * NOISE, flips=everything)
    assert not verdict.passed
    assert not is_usable(verdict.measures[0])


@pytest.mark.parametrize(("distance", "passed"), [(0.0, True), (0.02, True), (0.9, False)])
def test_a_greedy_token_may_differ_at_a_tie(distance: float, passed: bool) -> None:
    verdict = judge(0.02 * NOISE, 0.02 * NOISE, continued=make_continuation(2, distance))
    assert verdict.passed is passed
    assert [measure.tensor for measure in verdict.measures if not measure.passed] == ([] if passed else [GREEDY])
    if not passed:
        assert "continues the export otherwise than the original" in verdict.diagnosis


def test_explained_flips_are_counted_and_do_not_widen_the_floor() -> None:
    flipped = torch.zeros_like(KEEP)
    flipped[0, 30:40] = True
    original = torch.where(flipped, 2.0, 0.02 * NOISE)
    flips = ServedFlips(flipped, flipped)
    verdict = judge(original, original, flips=flips)
    assert verdict.passed
    assert verdict.figures["bfloat16.served_export_flips"] == 10
    assert any("10 tokens of the original and 10 of the export" in note for note in verdict.notes)
    assert verdict.measures[0].floor == pytest.approx(0.02, rel=0.2)
    assert not judge(original, original + 0.1, flips=flips).passed


def test_the_trainers_part_of_a_mismatch_is_told() -> None:
    verdict = judge(0.02 * NOISE, 0.02 * NOISE, mismatch=MismatchShares(0.03, 0.01, 0.028, 0.88))
    (note,) = verdict.notes
    assert "0.03 nats rms; 88% of its square is Hugging Face's own gap to engine 1 (0.028)" in note
    assert verdict.figures["bfloat16.trainer_rollout_engine_share"] == 0.88


def test_a_refused_export_has_the_class_of_its_fault() -> None:
    verdict = build_refused_verdict("KeyError: 'layers.1.mlp.gate.weight'", "engine 1")
    assert (verdict.failure_class, verdict.component) == ("missing_tensor", "conversion")
    assert verdict.diagnosis.startswith("engine 1 serves the original and not the export: a tensor is missing")


def test_the_chart_has_few_points_and_shows_every_position() -> None:
    noise = torch.zeros(2, 100)
    noise[1, 77] = 0.5
    case = ServedCase("batch", "bfloat16", KEEP, make_scores(0.0), make_scores(0.0), make_scores(noise))
    gap = draw_positions(case)
    assert len(gap.positions) <= POSITION_BINS
    assert max(gap.export) == pytest.approx(0.5)
    assert gap.positions[gap.export.index(max(gap.export))] in (76, 77)
    assert max(gap.original) == 0
