"""From compared cases to a verdict: failed where one is, inconclusive where one is, never passed by omission."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.equivalence.tensor_compare import TensorProblem
from ci.equivalence.tolerances import FLOAT32_TOLERANCE, SPECIFICATION_LIMITS
from ci.equivalence.verdict import (
    build_not_run_verdict,
    build_verdict,
    describe_uncaptured,
    find_substitutes,
    measure_specification,
)
from tests.ci.equivalence.comparisons import TOKENS, compared

if TYPE_CHECKING:
    from ci.equivalence.case_result import CaseComparison

BROKEN = TensorProblem("non_finite", "logits", "logits is nan")


def test_one_failed_case_fails_the_verdict() -> None:
    right, wrong = compared(1.0, 1.0), compared(1.0, 2 * FLOAT32_TOLERANCE, 3 * FLOAT32_TOLERANCE)
    assert build_verdict([right, right], coverage={}).passed
    for order in ([right, wrong], [wrong, right]):
        verdict = build_verdict(order, coverage={})
        assert (verdict.passed, verdict.failure_class) == (False, "numeric_mismatch")
        assert verdict.diagnosis == "decoder.0 is the first tensor to leave the reference's noise"
        assert verdict.worst is not None
        assert verdict.worst.tensor == "decoder.1"


def test_a_problem_fails_before_any_number() -> None:
    verdict = build_verdict([compared(1.0, diff={"problems": (BROKEN,)})], coverage={})
    assert (verdict.passed, verdict.failure_class, verdict.diagnosis) == (False, "non_finite", "logits is nan")


@pytest.mark.parametrize(
    "unclear", [compared(1.0, untrusted="Hugging Face differs"), compared(1.0, teacher_forced=True, excused=TOKENS)]
)
def test_one_inconclusive_case_is_no_pass(unclear: CaseComparison) -> None:
    verdict = build_verdict([compared(1.0), unclear], coverage={"a": "b"})
    assert (verdict.passed, verdict.failure_class) == (False, "environment")
    assert verdict.diagnosis == unclear.inconclusive
    assert verdict.coverage == {"a": "b"}


def test_tensors_that_a_side_did_not_capture_are_named() -> None:
    assert describe_uncaptured([compared(1.0)]) == {}
    hidden = ("decoder.0.mixer.query", "decoder.1.mixer.query", "decoder.1.mlp")
    said = describe_uncaptured([compared(1.0, diff={"not_captured": hidden}), compared(1.0)])
    assert said == {"captures": "not covered: 3 tensors are not captured (query, MLP)"}


def test_what_ran_instead_is_named() -> None:
    asked = {"moe": "dropless", "dtype": "bfloat16", "device": "cpu"}
    assert find_substitutes(asked, {**asked, "attention": "eager"}) == {}
    assert find_substitutes(asked, {"moe": "looped", "dtype": "float32", "device": "cpu"}) == {
        "moe": "looped",
        "dtype": "float32",
    }
    assert find_substitutes({"moe": "dropless"}, {}) == {"moe": "nothing reported"}


def test_a_variant_that_did_not_run_is_named() -> None:
    case = compared(1.0, substitutes={"moe": "looped"})
    verdict = build_not_run_verdict(case, {"a": "b"})
    assert (verdict.passed, verdict.failure_class) == (False, "variant_did_not_run")
    assert verdict.diagnosis == "variant did not run (moe: looped ran instead)"


def test_the_specification_s_thresholds_scale_with_compare_factor() -> None:
    case = compared(1.0)
    measures = [replace(measure, max_abs=2 * SPECIFICATION_LIMITS["max_abs"]) for measure in case.measures]
    tolerances = replace(case.tolerances, compare_factor=2.0)
    assert measure_specification(measures, case.tolerances)["max_abs"] == pytest.approx(2.0)
    assert measure_specification(measures, tolerances)["max_abs"] == pytest.approx(1.0)
