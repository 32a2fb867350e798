"""Images before a decoder: patches, the positions of a grid, and where features go among the tokens.

Pixtral's tower, https://arxiv.org/abs/2410.07073, section 2.1; transformers, modeling_pixtral.py and modeling_llava.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ci.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from ci.subjects.images import Images


def cut_patches(images: Images, patch: int) -> Tensor:
    """Cut all images into rows (patches, channels * patch * patch), line by line of each.

    What is outside of an image's own size is no patch of it.
    """
    rows = []
    for pixels, (height, width) in zip(images.pixels, images.sizes.tolist(), strict=True):
        tall, wide = height // patch, width // patch
        grid = pixels[:, : tall * patch, : wide * patch].reshape(-1, tall, patch, wide, patch)
        rows.append(grid.permute(1, 3, 0, 2, 4).reshape(tall * wide, -1))
    return torch.cat(rows)


def locate_patches(images: Images, patch: int) -> tuple[Tensor, Tensor]:
    """Return line and column of each patch (1, patches, 2), and the number of its image (1, patches)."""
    positions, numbers = [], []
    for number, (height, width) in enumerate((images.sizes // patch).tolist()):
        lines, columns = torch.arange(height), torch.arange(width)
        positions.append(torch.cartesian_prod(lines, columns).view(-1, 2))
        numbers.append(torch.full((height * width,), number))
    device = images.pixels.device
    return torch.cat(positions)[None].to(device), torch.cat(numbers)[None].to(device)


def place_features(embeddings: Tensor, ids: Tensor, token: int, features: Tensor) -> Tensor:
    """Return the embeddings (B, T, hidden) with the features (patches, hidden) at the image tokens, in their order.

    Raises RequestError where there are not as many of each.
    """
    here = ids == token
    if int(here.sum()) != len(features):
        raise RequestError(f"{int(here.sum())} image tokens {token}, but {len(features)} patches of images")
    return embeddings.masked_scatter(here[..., None], features.to(embeddings.dtype))
