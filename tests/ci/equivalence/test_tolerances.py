"""Limits follow from measured noise: one constant a dtype, scaled by compare_factor and by nothing else."""

from __future__ import annotations

import pytest

from ci.equivalence.tolerances import (
    FLIP_GAP_FACTOR,
    FLOAT32_TOLERANCE,
    MIN_FLOOR,
    NATIVE_DTYPE_TOLERANCE,
    TOKEN_SLACK,
    NoiseFloor,
    Tolerances,
)


def test_the_limit_is_the_tolerance_times_the_floor() -> None:
    floors = {"logits": NoiseFloor(1e-6, 2e-6)}
    assert Tolerances("float32", floors).get_error_limit("logits") == pytest.approx(FLOAT32_TOLERANCE * 1e-6)
    scaled = Tolerances("float32", floors, compare_factor=2.0)
    assert scaled.get_error_limit("logits") == pytest.approx(2 * FLOAT32_TOLERANCE * 1e-6)
    native = Tolerances("bfloat16", {"logits": NoiseFloor(0.02, 0.03)})
    assert native.get_error_limit("logits") == pytest.approx(NATIVE_DTYPE_TOLERANCE * 0.02)


def test_the_token_limit_is_wider_in_low_precision_only() -> None:
    for dtype, tolerance in (("float32", FLOAT32_TOLERANCE), ("bfloat16", NATIVE_DTYPE_TOLERANCE)):
        tolerances = Tolerances(dtype, {"logits": NoiseFloor(0.02, 0.03)})  # type: ignore[arg-type]
        assert tolerances.get_token_limit("logits") == pytest.approx(tolerance * TOKEN_SLACK[dtype] * 0.03)


def test_a_tensor_without_noise_is_allowed_one_rounding() -> None:
    assert Tolerances("float32", {}).get_error_limit("embeddings") == FLOAT32_TOLERANCE * MIN_FLOOR["float32"]
    assert Tolerances("bfloat16", {}).get_error_limit("embeddings") == NATIVE_DTYPE_TOLERANCE * MIN_FLOOR["bfloat16"]


@pytest.mark.parametrize("name", ["decoder.3.mlp.router_top_experts", "decoder.3.mlp.router_logits"])
def test_a_choice_may_flip_over_twice_the_error_of_its_router_logits(name: str) -> None:
    tolerances = Tolerances("float32", {"decoder.3.mlp.router_logits": NoiseFloor(1e-6, 2e-6)})
    assert FLIP_GAP_FACTOR == 2
    assert tolerances.get_flip_gap_limit(name) == pytest.approx(2 * FLOAT32_TOLERANCE * 2e-6)
