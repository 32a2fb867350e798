"""Draws the weights of a model so that all of them have an effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


def draw_weights(model: Any, seed: int) -> None:
    """Draw weights that all have an effect: linear N(0, 1 / fan_in), norms 1 + 0.3 N, biases 0.3 N, embeddings N(0, 1).

    Hugging Face's own initialisation (norms of one, biases of zero, small weights) hides whole classes of bugs.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.data = _draw(name, parameter.shape, generator)


def _draw(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    noise: Tensor = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return 0.3 * noise
    if name.endswith("A_log"):  # decays of which some keep the past for tens of tokens
        return 0.7 * noise - torch.full(shape, 0.5)
    if len(shape) == 1:
        return 1 + 0.3 * noise
    scale: float = shape[-1] ** 0.5  # of a depthwise convolution too, where it is the width
    return noise if "embed_tokens" in name else noise / scale
