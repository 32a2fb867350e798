"""Measures of one case: both limits hold alone, what is no number fails, a tensor has the measure of its worst case."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ci.equivalence.case_result import MAX_MEASURES, keep_worst_per_tensor, limit_measures
from ci.equivalence.tolerances import FLOAT32_TOLERANCE, INCONCLUSIVE_SHARE
from ci.evidence import Measure
from ci.tensor_names import TOP_EXPERTS, execution_order
from tests.ci.equivalence.comparisons import FLOOR, TOKENS, compared

FLIPS = f"decoder.0.{TOP_EXPERTS}"


@pytest.mark.parametrize(
    ("error", "token_error", "failed"),
    [
        (FLOAT32_TOLERANCE * 0.99, FLOAT32_TOLERANCE * 0.99, False),
        (FLOAT32_TOLERANCE * 1.01, 0.0, True),
        (0.0, FLOAT32_TOLERANCE * 1.01, True),
        (math.nan, 0.0, True),
        (0.0, math.nan, True),
        (math.inf, 0.0, True),
        (0.0, math.inf, True),
    ],
)
def test_either_error_alone_fails_a_case(error: float, token_error: float, failed: bool) -> None:
    assert compared((error, token_error)).failed is failed


def test_a_measure_has_the_error_with_its_limit_and_floor() -> None:
    measure = compared(3.0).measures[0]
    assert measure.ratio == pytest.approx(3.0)
    assert measure.floor == FLOOR
    assert measure.used == pytest.approx(3.0 / FLOAT32_TOLERANCE)
    assert measure.shape == (1, TOKENS, 3)


@pytest.mark.parametrize(("gaps", "failed"), [(0.5, False), (1.01, True), (math.inf, True), (math.nan, True)])
def test_a_flip_over_too_large_a_gap_fails_a_case(gaps: float, failed: bool) -> None:
    one = compared(1.0)
    limit = one.tolerances.get_flip_gap_limit(FLIPS)
    assert compared(1.0, diff={"flip_gaps": {FLIPS: gaps * limit}}).failed is failed


def test_no_flip_is_no_measure() -> None:
    assert [measure.tensor for measure in compared(1.0, diff={"flip_gaps": {FLIPS: 0.0}}).measures] == ["embeddings"]


def test_the_excused_share_is_that_of_the_tensor_that_lost_most() -> None:
    assert compared(1.0).excused_share == 0.0
    assert compared(1.0, excused=5).excused_share == pytest.approx(0.25)
    assert compared().excused_share == 0.0
    most, least = compared(1.0, excused=5), compared(1.0)
    both = {**least.diff.tensors, "logits": most.diff.tensors["embeddings"]}
    assert replace(least, diff=replace(least.diff, tensors=both)).excused_share == pytest.approx(0.25)


@pytest.mark.parametrize(("excused", "not_compared"), [(TOKENS, True), (TOKENS - 1, False), (0, False)])
def test_a_tensor_that_flips_excuse_wholly_was_not_compared(excused: int, not_compared: bool) -> None:
    one = compared(1.0, excused=excused)
    assert not one.failed
    assert (one.excused_share > INCONCLUSIVE_SHARE) is not_compared
    assert ("not compared" in one.inconclusive) is not_compared


def test_limits_that_cannot_be_trusted_are_inconclusive() -> None:
    assert compared(1.0, untrusted="Hugging Face differs").inconclusive == "Hugging Face differs"


def test_the_label_says_when_blocks_were_teacher_forced() -> None:
    assert compared(1.0).measures[0].case == "batch"
    assert compared(1.0, teacher_forced=True).measures[0].case == "batch, block by block"


def measure(tensor: str, error: float, *, case: str = "") -> Measure:
    return Measure(tensor, "float32", (1,), error, 1.0, passed=error <= 1.0, case=case)


def test_the_case_that_failed_or_came_closest_is_kept_for_a_tensor() -> None:
    measures = keep_worst_per_tensor([measure("logits", 0.2, case="a"), measure("logits", 0.4, case="b")])
    assert [one.case for one in measures] == ["b"]
    failing = replace(measure("logits", 0.1, case="c"), passed=False)
    assert [one.case for one in keep_worst_per_tensor([measure("logits", 0.9), failing])] == ["c"]
    assert [one.case for one in keep_worst_per_tensor([failing, measure("logits", 0.9)])] == ["c"]


def test_a_long_verdict_keeps_what_failed_then_blocks_then_the_closest() -> None:
    many = [measure(f"decoder.{layer}.mlp", 0.5) for layer in range(2 * MAX_MEASURES)]
    many += [measure("decoder.7", 0.1), measure("decoder.399.norm_1", 2.0), measure("decoder.3.mixer", 0.9)]
    kept = limit_measures(keep_worst_per_tensor(many))
    assert len(kept) == MAX_MEASURES
    names = [one.tensor for one in kept]
    assert {"decoder.7", "decoder.399.norm_1", "decoder.3.mixer"} <= set(names)
    assert names == sorted(names, key=execution_order)
