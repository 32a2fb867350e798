"""Rotary position embeddings: the cos and sin tables of each kind, and their application to queries and keys.

Tables are computed in float32 whatever the model's dtype is, as in transformers: they are a part of the model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ci.subjects.reference.config import AxialRope, Llama3Rope, ProportionalRope, YarnRope

if TYPE_CHECKING:
    from ci.subjects.reference.config import Rope


def rotary_tables(rope: Rope, head_dim: int, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cos and sin in `dtype` for integer positions (B, T), of two coordinates (B, T, 2).

    Their shape is (B, T, 1, head_dim / 2).
    """
    inverse, scale = compute_frequencies(rope, head_dim)
    inverse = inverse.to(positions.device)
    if isinstance(rope, AxialRope):
        line, column = positions[..., None, None].float().unbind(dim=2)
        angles = torch.cat([line * inverse[0::2], column * inverse[1::2]], dim=-1)
    else:
        angles = positions[..., None, None].float() * inverse
    return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)


def apply_rotary(tensor: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys (B, T, heads, head_dim).

    Dimension i pairs with i + head_dim / 2, as in Llama's Hugging Face layout.
    """
    first, second = tensor.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def compute_frequencies(rope: Rope, head_dim: int) -> tuple[Tensor, float]:
    """Return the inverse frequencies, and the scale of cos and sin.

    Frequencies are (head_dim / 2), in float32 on the CPU.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    inverse = 1.0 / (rope.theta**exponents)
    if isinstance(rope, Llama3Rope):
        return _llama3(rope, inverse), 1.0
    if isinstance(rope, YarnRope):
        return _yarn(rope, inverse, head_dim), rope.attention_factor
    if isinstance(rope, ProportionalRope):
        rotated = int(rope.partial_rotary_factor * head_dim // 2)
        return torch.cat([inverse[:rotated], torch.zeros(head_dim // 2 - rotated)]), 1.0
    return inverse, 1.0


def _llama3(rope: Llama3Rope, inverse: Tensor) -> Tensor:
    """Blend by the rotations of a frequency within the original context.

    Below the low factor frequencies are divided, above the high factor they are kept.
    """
    rotations = rope.original_context_length * inverse / (2 * math.pi)
    kept = (rotations - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor)
    kept = kept.clamp(0, 1)
    return (1 - kept) * inverse / rope.scale_factor + kept * inverse


def _yarn(rope: YarnRope, inverse: Tensor, head_dim: int) -> Tensor:
    """Blend by dimension, with a linear ramp.

    It goes from the dimension that rotates `beta_fast` times in the original context to that of `beta_slow`.
    """

    def dimension(rotations: float) -> float:
        return (
            head_dim * math.log(rope.original_context_length / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))
        )

    low = max(math.floor(dimension(rope.beta_fast)), 0)
    high = min(math.ceil(dimension(rope.beta_slow)), head_dim - 1)
    width = (high - low) or 0.001  # transformers' guard against a ramp of no width
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return inverse / rope.scale_factor * ramp + inverse * (1 - ramp)
