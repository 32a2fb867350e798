"""Lays out a vision tower's tensors with one row for each image, as a batch of documents padded in front.

What is said of documents then holds of images: the first patch of each, its last one, and what crosses from one to
another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ci.subjects.images import Images


@dataclass(frozen=True)
class ImageRows:
    """The image tokens, bool (B, T), and the patches of each image, in the order of the tokens."""

    tokens: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of_images(cls, tokens: Tensor, images: Images, patch: int) -> ImageRows:
        """Return the rows of images whose patches are `patch` pixels wide and high."""
        return cls(tokens, tuple((images.sizes // patch).prod(-1).tolist()))

    @property
    def keep(self) -> Tensor:
        """Bool (images, patches): the places that hold a patch."""
        longest = max(self.counts)
        return torch.stack([torch.arange(longest) >= longest - count for count in self.counts])

    def arrange(self, tensor: Tensor) -> Tensor:
        """Return (images, patches, …) of a tensor (B, T, …); zeros stand before the patches of a smaller image."""
        rows = tensor.new_zeros(*self.keep.shape, *tensor.shape[2:])
        rows[self.keep] = tensor[self.tokens]
        return rows
