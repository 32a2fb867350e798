"""The images of a batch: their pixels as the model's processor gives them, their sizes, and the row of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NAMES = ("pixel_values", "image_sizes", "image_rows")
"""The tensors of an inputs file that hold images; the first two are transformers' names."""


@dataclass(frozen=True)
class Images:
    """Images in the order of their tokens.

    `pixels` float32 (N, 3, H, W), zero below and right of an image that is smaller than the largest; `sizes` int64
    (N, 2), height and width in pixels; `rows` int64 (N,), ascending.
    """

    pixels: Tensor
    sizes: Tensor
    rows: Tensor

    def to(self, device: str) -> Images:
        """Return the same images on a device."""
        return Images(self.pixels.to(device), self.sizes.to(device), self.rows.to(device))

    def select_row(self, row: int) -> Images | None:
        """Return the images of one row, as row 0, without padding that they do not need; None where it has none."""
        chosen = self.rows == row
        if not bool(chosen.any()):
            return None
        sizes = self.sizes[chosen]
        height, width = (int(size) for size in sizes.amax(0))
        return Images(self.pixels[chosen][..., :height, :width], sizes, torch.zeros_like(self.rows[chosen]))

    def to_arguments(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the arguments by which transformers' models take images."""
        return {"pixel_values": self.pixels.to(dtype), "image_sizes": self.sizes}

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of an inputs file."""
        return dict(zip(NAMES, (self.pixels, self.sizes, self.rows), strict=True))


def take_images(tensors: dict[str, Tensor]) -> Images | None:
    """Take the images out of the tensors of an inputs file; None where it has none."""
    if not any(name in tensors for name in NAMES):
        return None
    empty = torch.empty(0)
    return Images(*(tensors.pop(name, empty) for name in NAMES))


def split_images(images: Images | None, rows: int) -> list[Images | None]:
    """Return the images of each row, as row 0 of their own; None for a row without any."""
    return [images.select_row(row) if images else None for row in range(rows)]


def find_image_problem(images: Images, rows: int) -> str | None:
    """Return what is wrong with the images of a batch of `rows` rows, None for nothing."""
    pixels, sizes, at = images.pixels, images.sizes, images.rows
    if pixels.dtype != torch.float32 or pixels.ndim != 4 or not pixels.numel():
        return "pixel_values must be float32 (images, channels, height, width), not empty"
    if sizes.dtype != torch.int64 or sizes.shape != (len(pixels), 2):
        return "image_sizes must be int64 (images, 2)"
    if bool((sizes < 1).any()) or bool((sizes > torch.tensor(pixels.shape[2:])).any()):
        return "image_sizes must be within pixel_values"
    if at.dtype != torch.int64 or at.shape != (len(pixels),) or bool((at.diff() < 0).any()):
        return "image_rows must be int64 (images,), ascending"
    return None if 0 <= int(at[0]) <= int(at[-1]) < rows else f"image_rows must be rows of the batch of {rows}"


def describe_sizes(images: Images | None) -> str:
    """Say how many images there are, and their sizes in pixels."""
    if images is None:
        return "no image"
    listed = ", ".join(f"{height} x {width}" for height, width in images.sizes.tolist())
    return f"{len(images.rows)} image{'s' if len(images.rows) > 1 else ''} ({listed})"
