from __future__ import annotations

import torch

from ci.equivalence.input_case import InputCase
from ci.subjects.images import Images


def test_real_tokens_are_those_that_the_mask_keeps() -> None:
    ids = torch.arange(6).view(2, 3)
    assert bool(InputCase("batch", ids).keep.all())
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert InputCase("batch", ids, mask).keep.tolist() == [[False, True, True], [True, True, True]]


def test_only_a_case_with_images_has_tokens_of_images() -> None:
    ids = torch.tensor([[7, 1, 7]])
    images = Images(torch.zeros(2, 3, 4, 4), torch.tensor([[4, 4], [4, 4]]), torch.tensor([0, 0]))
    tokens = InputCase("batch", ids, images=images, image_token=7).image_tokens
    assert tokens is not None
    assert tokens.tolist() == [[True, False, True]]
    assert InputCase("text", ids).image_tokens is None
