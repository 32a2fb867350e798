"""Limits follow from measured noise: one constant a gate, scaled by compare_factor and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ci.equivalence.compare import difference
from ci.equivalence.floors import GATE_A, GATE_B, MIN_FLOOR, Floor, Limits, floors, noise_variants, untrusted
from ci.equivalence.walk import Walked
from ci.subjects.base import Variant

EXPECTED = torch.ones(1, 4, 5, dtype=torch.float64)


def walked(error: float) -> Walked:
    return Walked({"logits": difference((EXPECTED * (1 + error)).double(), EXPECTED)})


def test_the_floor_is_the_largest_error_of_a_legitimate_variant() -> None:
    found = floors([walked(1e-7), walked(4e-7), walked(2e-7)])
    assert found["logits"].error == pytest.approx(4e-7)


def test_limits_of_both_gates() -> None:
    measured = {"logits": Floor(1e-6, 2e-6)}
    assert Limits("float32", measured).error("logits") == pytest.approx(GATE_A * 1e-6)
    assert Limits("float32", measured, compare_factor=2.0).error("logits") == pytest.approx(2 * GATE_A * 1e-6)
    assert Limits("bfloat16", {"logits": Floor(0.02, 0.03)}).error("logits") == pytest.approx(GATE_B * 0.02)


def test_a_tensor_without_noise_is_allowed_one_rounding() -> None:
    assert Limits("float32", {}).error("embeddings") == GATE_A * MIN_FLOOR["float32"]
    assert Limits("bfloat16", {}).error("embeddings") == GATE_B * MIN_FLOOR["bfloat16"]


def test_variants_are_paired_so_that_each_runs_once() -> None:
    offered = [Variant(axis, name) for axis, names in {"a": "12", "b": "12", "c": "1"}.items() for name in names]
    assert noise_variants(offered) == ({"a": "1", "b": "1", "c": "1"}, {"a": "2", "b": "2", "c": "1"})


def test_a_reference_that_disagrees_with_itself_is_no_yardstick() -> None:
    assert untrusted([walked(1e-6)], "float32") == ""
    assert "variants differ by 0.01 in logits" in untrusted([walked(0.01)], "float32")
    assert untrusted([walked(0.01)], "bfloat16") == ""
    assert "differ by nan" in untrusted([walked(float("nan"))], "bfloat16")


def test_a_nan_floor_does_not_widen_a_limit() -> None:
    nan = replace(walked(1e-7).differences["logits"], error=float("nan"))
    assert not Limits("float32", floors([Walked({"logits": nan}), walked(1e-7)])).error("logits") > 1e-5
