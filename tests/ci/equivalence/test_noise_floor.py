"""The noise floor is the largest error of a legitimate variant, and no floor stands on a broken one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ci.equivalence.noise_floor import combine_variants, explain_untrusted, measure_floors
from ci.equivalence.tensor_compare import TensorProblem, compare_tensors
from ci.equivalence.tolerances import Tolerances
from ci.equivalence.trace_compare import TraceDiff
from ci.subjects.base import Variant

EXPECTED = torch.ones(1, 4, 5, dtype=torch.float64)


def diff(error: float) -> TraceDiff:
    return TraceDiff({"logits": compare_tensors((EXPECTED * (1 + error)).double(), EXPECTED)})


def test_the_floor_is_the_largest_error_of_a_legitimate_variant() -> None:
    floors = measure_floors([diff(1e-7), diff(4e-7), diff(2e-7)])
    assert floors["logits"].error == pytest.approx(4e-7)


def test_variants_are_paired_so_that_each_runs_once() -> None:
    offered = [Variant(axis, name) for axis, names in {"a": "12", "b": "12", "c": "1"}.items() for name in names]
    assert combine_variants(offered) == ({"a": "1", "b": "1", "c": "1"}, {"a": "2", "b": "2", "c": "1"})


def test_a_reference_that_disagrees_with_itself_is_inconclusive() -> None:
    assert explain_untrusted([diff(1e-6)], "float32") == ""
    assert "variants differ by 0.01 in logits" in explain_untrusted([diff(0.01)], "float32")
    assert explain_untrusted([diff(0.01)], "bfloat16") == ""
    assert "differ by nan" in explain_untrusted([diff(float("nan"))], "bfloat16")


def test_a_reference_that_cannot_be_compared_is_inconclusive() -> None:
    broken = TraceDiff(problems=(TensorProblem("non_finite", "logits", "logits is nan"),))
    assert explain_untrusted([diff(1e-6), broken], "bfloat16").endswith("cannot be compared: logits is nan")


def test_a_nan_floor_does_not_widen_a_limit() -> None:
    nan = replace(diff(1e-7).tensors["logits"], error=float("nan"))
    floors = measure_floors([TraceDiff({"logits": nan}), diff(1e-7)])
    assert not Tolerances("float32", floors).get_error_limit("logits") > 1e-5
