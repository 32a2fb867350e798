"""The oracle is torch's AdamW; its relatives are plain arithmetic."""

from __future__ import annotations

import torch

from ci.equivalence.adamw_oracle import OptimizerHistory, compute_scales, compute_updates, is_decayed
from ci.subjects.training import OptimizerSettings

SETTINGS = OptimizerSettings(learning_rate=0.1, epsilon=1e-3, weight_decay=0.5)


def test_a_first_update_is_the_formula() -> None:
    weight, gradient = torch.full((2, 2), 3.0), torch.full((2, 2), 2.0)
    (update,) = compute_updates(OptimizerHistory(weight, (gradient,), (0.5,)), SETTINGS)
    assert torch.allclose(update, torch.full((2, 2), -0.1 / 1.001 - 0.1 * 0.5 * 3.0, dtype=torch.float64))


def test_a_vector_is_not_decayed() -> None:
    assert not is_decayed(torch.ones(3))
    history = OptimizerHistory(torch.ones(3), (torch.zeros(3),), (1.0,))
    assert not compute_updates(history, SETTINGS)[0].any()


def test_only_a_gradient_above_the_limit_is_scaled() -> None:
    assert compute_scales([4.0, 0.5], 1.0) == (0.25, 1.0)
    assert compute_scales([4.0], None) == (1.0,)
