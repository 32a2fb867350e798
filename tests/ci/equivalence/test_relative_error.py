"""An error without a meaning is infinite."""

from __future__ import annotations

import math

import pytest
import torch

from ci.equivalence.relative_error import compute_relative_error


@pytest.mark.parametrize(
    ("actual", "error"),
    [(torch.tensor([1.0, 1.0]), 0.0), (torch.tensor([math.nan, 1.0]), math.inf), (torch.ones(3), math.inf)],
)
def test_a_shape_or_a_value_that_means_nothing_is_infinitely_wrong(actual: torch.Tensor, error: float) -> None:
    assert compute_relative_error(actual, torch.ones(2)) == error
    assert compute_relative_error(torch.ones(2), torch.zeros(2)) == math.inf
