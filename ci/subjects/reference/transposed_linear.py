"""A linear layer with a transposed weight: Fast-LLM stores the MLP's second layer so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

if TYPE_CHECKING:
    from torch import Tensor


def transposed_linear(tensor: Tensor, weight: Tensor) -> Tensor:
    """Multiply `tensor` (…, in) by `weight` (in, out)."""
    if weight.device.type == "cpu" and weight.dtype in (torch.bfloat16, torch.float16):
        return linear(tensor, weight.t().contiguous())  # 16-bit kernels on the CPU are five times slower without
    return tensor @ weight
