"""A true float64 oracle: transformers' islands of float32 lifted to float64 for the length of a block.

`model.double()` alone is not exact: norms, softmax, RoPE angles and router weights are cast to float32 by the
modelling code whatever the model's dtype. The reference's noise in them would be common to the oracle and to
Hugging Face's own variants, hence invisible in the floor, and a subject that computes RoPE angles more exactly than
Hugging Face would look wrong at long positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class TrueFloat64(TorchFunctionMode):
    """Context manager: whoever asks torch for float32 gets float64, in this thread."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the dtype float32 in any call."""
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        lifted = {key: _lift(value) for key, value in (kwargs or {}).items()}
        return func(*(_lift(arg) for arg in args), **lifted)


def _lift(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
