from __future__ import annotations

import torch

from ci.equivalence.input_case import InputCase


def test_real_tokens_are_those_that_the_mask_keeps() -> None:
    ids = torch.arange(6).view(2, 3)
    assert bool(InputCase("batch", ids).keep.all())
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert InputCase("batch", ids, mask).keep.tolist() == [[False, True, True], [True, True, True]]
