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
    diff = compare_tensors(actual, expected)
    assert diff.error == pytest.approx(float(delta.norm() / expected.norm()), rel=1e-12)
    assert diff.max_abs == pytest.approx(float(delta.abs().max()))
    assert diff.rms_abs == pytest.approx(float(delta.square().mean().sqrt()))
    regular = math.hypot(float(expected.square().mean().sqrt()), RMS_EPSILON)
    assert diff.rms_rel == pytest.approx(diff.rms_abs / regular)
    assert diff.max_rel == pytest.approx(diff.max_abs / regular)
    assert diff.expected == float(expected[diff.worst_index])
    assert abs(diff.actual - diff.expected) == pytest.approx(diff.max_abs)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    actual, expected = pair(3, 11, 4, 5)
    whole = compare_tensors(actual, expected)
    monkeypatch.setitem(CHUNK, "cpu", 40)
    parts = compare_tensors(actual, expected)
    assert (parts.error, parts.token_error, parts.worst_index) == (whole.error, whole.token_error, whole.worst_index)


def test_one_wrong_token_beside_a_huge_one_has_a_large_token_error() -> None:
    actual, expected = pair(1, 64, 32)
    expected[0, 0] *= 1e4
    actual = expected.float()
    actual[0, 9] *= 1.01
    diff = compare_tensors(actual, expected)
    assert diff.error < 2e-6
    assert diff.token_error == pytest.approx(
        0.01 * float(expected[0, 9].norm()) / (1e-2 * float(expected.norm()) / 8), rel=0.01
    )


def test_excluded_tokens_have_no_effect() -> None:
    actual, expected = pair(2, 4, 3)
    actual[1, 2] = 99
    keep = torch.ones(2, 4, dtype=torch.bool)
    keep[1, 2] = False
    diff = compare_tensors(actual, expected, keep=keep)
    assert diff.error < 1e-5
    assert bool(diff.by_token[1, 2].isnan())
    assert diff.worst_index[:2] != (1, 2)


@pytest.mark.parametrize(("actual", "error"), [(0.0, 0.0), (1e-39, 0.0), (1e-30, math.inf)])
def test_denormals_equal_zero_and_nothing_else_does(actual: float, error: float) -> None:
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
    problem = find_non_finite("decoder.0", actual, expected)
    assert problem is not None
    assert problem.failure_class == "non_finite"
    assert "[0, 1, 2]" in problem.message


def test_all_nan_never_passes_a_limit() -> None:
    expected = torch.ones(1, 2, 3, dtype=torch.float64)
    diff = compare_tensors(torch.full((1, 2, 3), math.nan), expected)
    assert not diff.finite
    assert not diff.error <= 1e9


def test_a_value_that_is_not_finite_is_seen_where_its_token_does_not_count() -> None:
    actual, expected = pair(1, 3, 4)
    actual[0, 0, 1] = math.nan
    assert not compare_tensors(actual, expected, keep=torch.tensor([[False, True, True]])).finite


def test_comparison_does_not_change_its_inputs() -> None:
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
    figures = compare_distributions(actual, expected, torch.ones(1, 4, dtype=torch.bool))
    assert figures["kl_max"] > 0.4
    assert figures["kl_mean"] == pytest.approx(figures["kl_max"] / 4, rel=1e-3)
    assert figures["top1_agreement"] == 0.75
    assert compare_distributions(actual, expected, torch.zeros(1, 4, dtype=torch.bool))["top1_agreement"] == 1.0
