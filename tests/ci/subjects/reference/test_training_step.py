"""What a step is made of, one piece at a time; whole steps are held against Hugging Face elsewhere."""

from __future__ import annotations

import pytest
import torch

from ci.subjects.hugging_face import training as hugging_face
from ci.subjects.reference.training_step import compute_balancing_loss, compute_clip_scale, compute_loss


@pytest.mark.parametrize(
    ("norm", "limit", "scale"), [(4.0, 1.0, 0.25), (0.5, 1.0, 1.0), (4.0, None, 1.0), (0.0, 1.0, 1.0)]
)
def test_only_a_norm_above_its_limit_is_clipped(norm: float, limit: float | None, scale: float) -> None:
    assert compute_clip_scale(norm, limit) == scale


def test_a_documents_share_is_its_sum_over_the_tokens_of_the_step() -> None:
    assert compute_loss(torch.tensor(6.0), torch.tensor(4)).item() == 1.5


def test_the_balancing_loss_is_that_of_the_other_implementation() -> None:
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    ours = compute_balancing_loss(logits, logits.topk(2).indices)
    assert ours.item() == pytest.approx(hugging_face.compute_balancing_loss(logits, 2).item(), rel=1e-6)
