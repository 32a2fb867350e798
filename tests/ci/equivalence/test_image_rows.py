"""A tower's tensors with one row an image, smaller images padded in front."""

from __future__ import annotations

import torch

from ci.equivalence.image_rows import ImageRows
from ci.subjects.images import Images

TOKENS = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
IMAGES = Images(torch.zeros(3, 3, 8, 8), torch.tensor([[4, 8], [4, 4], [4, 4]]), torch.tensor([0, 0, 1]))


def test_each_image_is_a_row_that_ends_with_its_last_patch() -> None:
    rows = ImageRows.of_images(TOKENS, IMAGES, 4)
    assert rows.counts == (2, 1, 1)
    assert rows.keep.tolist() == [[True, True], [False, True], [False, True]]
    numbered = torch.arange(10).view(2, 5)
    assert rows.arrange(numbered).tolist() == [[1, 2], [0, 4], [0, 5]]
    assert rows.arrange(torch.ones(2, 5, 7)).shape == (3, 2, 7)
