"""Measures of one case: both limits hold alone, what is no number fails, the worst case speaks for a tensor."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ci.equivalence.floors import GATE_A
from ci.equivalence.judged import BLIND, MEASURES, ORDER, bounded, order_of, worst_by_tensor
from ci.equivalence.walk import TOP_EXPERTS
from ci.evidence import Measure
from tests.ci.equivalence.judging import FLOOR, TOKENS, judged

FLIPS = f"decoder.0.{TOP_EXPERTS}"


@pytest.mark.parametrize(
    ("error", "token_error", "red"),
    [
        (GATE_A * 0.99, GATE_A * 0.99, False),
        (GATE_A * 1.01, 0.0, True),
        (0.0, GATE_A * 1.01, True),
        (math.nan, 0.0, True),
        (0.0, math.nan, True),
        (math.inf, 0.0, True),
        (0.0, math.inf, True),
    ],
)
def test_either_error_alone_fails_a_case(error: float, token_error: float, red: bool) -> None:
    assert judged((error, token_error)).red is red


def test_a_measure_holds_the_error_against_limit_and_floor() -> None:
    measure = judged(3.0).measures[0]
    assert measure.ratio == pytest.approx(3.0)
    assert measure.floor == FLOOR
    assert measure.used == pytest.approx(3.0 / GATE_A)
    assert measure.shape == (1, TOKENS, 3)


@pytest.mark.parametrize(("gaps", "red"), [(0.5, False), (1.01, True), (math.inf, True), (math.nan, True)])
def test_a_flip_over_too_large_a_gap_fails_a_case(gaps: float, red: bool) -> None:
    one = judged(1.0)
    limit = one.limits.gap(FLIPS)
    assert judged(1.0, walked={"flips": {FLIPS: gaps * limit}}).red is red


def test_no_flip_is_no_measure() -> None:
    assert [measure.tensor for measure in judged(1.0, walked={"flips": {FLIPS: 0.0}}).measures] == ["embeddings"]


def test_the_share_that_flips_excuse_is_that_of_the_tensor_that_lost_most() -> None:
    assert judged(1.0).excused == 0.0
    assert judged(1.0, excused=5).excused == pytest.approx(0.25)
    assert judged().excused == 0.0
    most, least = judged(1.0, excused=5), judged(1.0)
    both = {**least.walked.differences, "logits": most.walked.differences["embeddings"]}
    assert replace(least, walked=replace(least.walked, differences=both)).excused == pytest.approx(0.25)


@pytest.mark.parametrize(("excused", "blind"), [(TOKENS, True), (TOKENS - 1, False), (0, False)])
def test_what_flips_excuse_wholly_was_not_compared(excused: int, blind: bool) -> None:
    one = judged(1.0, excused=excused)
    assert not one.red
    assert (one.excused > BLIND) is blind
    assert ("not compared" in one.no_yardstick) is blind


def test_limits_that_cannot_be_trusted_are_no_yardstick() -> None:
    assert judged(1.0, untrusted="Hugging Face differs").no_yardstick == "Hugging Face differs"


def test_the_label_says_when_blocks_were_judged_alone() -> None:
    assert judged(1.0).measures[0].case == "batch"
    assert judged(1.0, fed=True).measures[0].case == "batch, block by block"


def measure(tensor: str, error: float, *, case: str = "") -> Measure:
    return Measure(tensor, "float32", (1,), error, 1.0, passed=error <= 1.0, case=case)


def test_of_one_tensor_the_case_speaks_that_came_closest_or_failed() -> None:
    found = worst_by_tensor([measure("logits", 0.2, case="a"), measure("logits", 0.4, case="b")])
    assert [one.case for one in found] == ["b"]
    failing = replace(measure("logits", 0.1, case="c"), passed=False)
    assert [one.case for one in worst_by_tensor([measure("logits", 0.9), failing])] == ["c"]
    assert [one.case for one in worst_by_tensor([failing, measure("logits", 0.9)])] == ["c"]


def test_a_long_verdict_keeps_what_failed_then_blocks_then_the_closest() -> None:
    many = [measure(f"decoder.{layer}.mlp", 0.5) for layer in range(2 * MEASURES)]
    many += [measure("decoder.7", 0.1), measure("decoder.399.norm_1", 2.0), measure("decoder.3.mixer", 0.9)]
    kept = bounded(worst_by_tensor(many))
    assert len(kept) == MEASURES
    names = [one.tensor for one in kept]
    assert {"decoder.7", "decoder.399.norm_1", "decoder.3.mixer"} <= set(names)
    assert names == sorted(names, key=order_of)


def test_the_order_is_that_of_execution() -> None:
    block = [f"decoder.2.{operation}".rstrip(".") for operation in ORDER]
    names = ["embeddings", "decoder.1", *block, "decoder.10", "final_norm", "logits"]
    shuffled = [*names[3:], *names[:3]]
    assert sorted(shuffled, key=order_of) == names
