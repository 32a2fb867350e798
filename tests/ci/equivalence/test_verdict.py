"""From judged cases to a verdict: red where one is, none where nothing can be said, never green by omission."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.equivalence.tensor_compare import TensorProblem
from ci.equivalence.tolerances import FLOAT32_TOLERANCE
from ci.equivalence.verdict import (
    build_verdict,
    describe_uncaptured,
    find_substitutes,
)
from tests.ci.equivalence.comparisons import TOKENS, compared

if TYPE_CHECKING:
    from ci.equivalence.case_result import CaseComparison

BROKEN = TensorProblem("non_finite", "logits", "logits is nan")


def test_one_red_case_makes_the_verdict_red() -> None:
    right, wrong = compared(1.0, 1.0), compared(1.0, 2 * FLOAT32_TOLERANCE, 3 * FLOAT32_TOLERANCE)
    assert build_verdict([right, right], coverage={}).passed
    for order in ([right, wrong], [wrong, right]):
        verdict = build_verdict(order, coverage={})
        assert (verdict.passed, verdict.failure_class) == (False, "numeric_mismatch")
        assert verdict.diagnosis.startswith("decoder.0 is the first tensor to leave the reference's noise: 2 times")
        assert verdict.worst is not None
        assert verdict.worst.tensor == "decoder.1"


def test_a_problem_is_red_before_any_number() -> None:
    verdict = build_verdict([compared(1.0, diff={"problems": (BROKEN,)})], coverage={})
    assert (verdict.passed, verdict.failure_class, verdict.diagnosis) == (False, "non_finite", "logits is nan")


@pytest.mark.parametrize(
    "blind", [compared(1.0, untrusted="Hugging Face differs"), compared(1.0, teacher_forced=True, excused=TOKENS)]
)
def test_one_case_without_a_yardstick_is_no_pass(blind: CaseComparison) -> None:
    verdict = build_verdict([compared(1.0), blind], coverage={"a": "b"})
    assert (verdict.passed, verdict.failure_class) == (False, "environment")
    assert verdict.diagnosis == blind.inconclusive
    assert verdict.coverage == {"a": "b"}


def test_what_either_side_did_not_capture_is_said() -> None:
    assert describe_uncaptured([compared(1.0)]) == {}
    hidden = ("decoder.0.mixer.query", "decoder.1.mixer.query", "decoder.1.mlp")
    said = describe_uncaptured([compared(1.0, diff={"not_captured": hidden}), compared(1.0)])
    assert said == {"captures": "not covered: 3 tensors are not captured (query, MLP)"}


def test_whatever_else_ran_than_was_asked_for_is_told() -> None:
    asked = {"moe": "dropless", "dtype": "bfloat16", "device": "cpu"}
    assert find_substitutes(asked, {**asked, "attention": "eager"}) == {}
    assert find_substitutes(asked, {"moe": "looped", "dtype": "float32", "device": "cpu"}) == {
        "moe": "looped",
        "dtype": "float32",
    }
    assert find_substitutes({"moe": "dropless"}, {}) == {"moe": "nothing reported"}
