"""Structure before numbers, NaN never passes, and the figures are what their definitions say."""

from __future__ import annotations

import math

import pytest
import torch

from ci.equivalence.tensor_compare import (
    CHUNK,
    compare_distributions,
    compare_tensors,
    find_mismatch,
    find_non_finite,
)
from ci.equivalence.tolerances import RMS_EPSILON


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    expected = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (expected + 1e-6 * torch.randn(shape, generator=generator, dtype=torch.float64)).float(), expected


def test_error_is_the_relative_l2_norm_of_the_difference() -> None:
    actual, expected = (3 * side for side in pair(2, 5, 7))
    delta = actual.double() - expected
    found = compare_tensors(actual, expected)
    assert found.error == pytest.approx(float(delta.norm() / expected.norm()), rel=1e-12)
    assert found.max_abs == pytest.approx(float(delta.abs().max()))
    assert found.rms_abs == pytest.approx(float(delta.square().mean().sqrt()))
    regular = math.hypot(float(expected.square().mean().sqrt()), RMS_EPSILON)
    assert found.rms_rel == pytest.approx(found.rms_abs / regular)
    assert found.max_rel == pytest.approx(found.max_abs / regular)
    assert found.expected == float(expected[found.worst_index])
    assert abs(found.actual - found.expected) == pytest.approx(found.max_abs)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    actual, expected = pair(3, 11, 4, 5)
    whole = compare_tensors(actual, expected)
    monkeypatch.setitem(CHUNK, "cpu", 40)
    parts = compare_tensors(actual, expected)
    assert (parts.error, parts.token_error, parts.worst_index) == (whole.error, whole.token_error, whole.worst_index)


def test_one_wrong_token_beside_a_giant_is_seen_by_its_token_error() -> None:
    actual, expected = pair(1, 64, 32)
    expected[0, 0] *= 1e4
    actual = expected.float()
    actual[0, 9] *= 1.01
    found = compare_tensors(actual, expected)
    assert found.error < 2e-6
    assert found.token_error == pytest.approx(
        0.01 * float(expected[0, 9].norm()) / (1e-2 * float(expected.norm()) / 8), rel=0.01
    )


def test_tokens_that_do_not_count_do_not_count() -> None:
    actual, expected = pair(2, 4, 3)
    actual[1, 2] = 99
    keep = torch.ones(2, 4, dtype=torch.bool)
    keep[1, 2] = False
    found = compare_tensors(actual, expected, keep=keep)
    assert found.error < 1e-5
    assert bool(found.by_token[1, 2].isnan())
    assert found.worst_index[:2] != (1, 2)


@pytest.mark.parametrize(("actual", "error"), [(0.0, 0.0), (1e-39, 0.0), (1e-30, math.inf)])
def test_a_tensor_of_zeros_forgives_denormals_only(actual: float, error: float) -> None:
    expected = torch.zeros(1, 2, 3, dtype=torch.float64)
    assert compare_tensors(torch.full((1, 2, 3), actual), expected).error == error


def test_tiny_norms_are_compared_like_any_other() -> None:
    actual, expected = pair(1, 4, 8)
    scaled = compare_tensors((actual.double() * 1e-20).float(), expected * 1e-20)
    assert scaled.error == pytest.approx(compare_tensors(actual, expected).error, rel=0.2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_a_problem_even_beside_its_opposite(bad: float) -> None:
    actual, expected = pair(1, 3, 4)
    actual[0, 1, 2], actual[0, 2, 2] = bad, -bad
    assert not compare_tensors(actual, expected).finite
    found = find_non_finite("decoder.0", actual, expected)
    assert found is not None
    assert found.failure_class == "non_finite"
    assert "[0, 1, 2]" in found.message


def test_all_nan_never_passes_a_limit() -> None:
    expected = torch.ones(1, 2, 3, dtype=torch.float64)
    found = compare_tensors(torch.full((1, 2, 3), math.nan), expected)
    assert not found.finite
    assert not found.error <= 1e9


def test_a_value_that_is_not_finite_is_seen_where_its_token_does_not_count() -> None:
    actual, expected = pair(1, 3, 4)
    actual[0, 0, 1] = math.nan
    assert not compare_tensors(actual, expected, keep=torch.tensor([[False, True, True]])).finite


def test_what_is_compared_is_left_as_it_was() -> None:
    actual, expected = pair(1, 3, 4)
    before = actual.double()
    compare_tensors(before, expected)
    assert torch.equal(before, actual.double())


def test_shape_and_dtype_are_problems() -> None:
    expected = torch.zeros(1, 2, 3, dtype=torch.float64)
    shape = find_mismatch("logits", torch.zeros(1, 2, 4), expected, dtype=torch.float32)
    dtype = find_mismatch("logits", torch.zeros(1, 2, 3), expected, dtype=torch.bfloat16)
    assert shape is not None
    assert shape.message == "logits has shape (1, 2, 4), expected (1, 2, 3)"
    assert dtype is not None
    assert dtype.message == "logits is float32, expected bfloat16"


def test_distribution_of_equal_logits() -> None:
    _, expected = pair(2, 3, 17)
    keep = torch.ones(2, 3, dtype=torch.bool)
    assert compare_distributions(expected.float(), expected, keep) == {
        "kl_mean": pytest.approx(0, abs=1e-6),
        "kl_p99": pytest.approx(0, abs=1e-6),
        "kl_max": pytest.approx(0, abs=1e-6),
        "top1_agreement": 1.0,
    }


def test_distribution_sees_another_best_token() -> None:
    expected = torch.zeros(1, 4, 4)
    expected[..., 0] = 9.0
    actual = expected.clone()
    actual[0, 0, 1] = 9.5
    found = compare_distributions(actual, expected, torch.ones(1, 4, dtype=torch.bool))
    assert found["kl_max"] > 0.4
    assert found["kl_mean"] == pytest.approx(found["kl_max"] / 4, rel=1e-3)
    assert found["top1_agreement"] == 0.75
    assert compare_distributions(actual, expected, torch.zeros(1, 4, dtype=torch.bool))["top1_agreement"] == 1.0
