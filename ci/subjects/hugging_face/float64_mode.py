"""Makes a float64 run of transformers float64 throughout.

`model.double()` alone is not exact: transformers casts norms, softmax, RoPE angles and router weights to float32,
whatever the model's dtype. This noise would be in the expected trace and in every variant of Hugging Face alike, so
the noise floor would not show it, and a subject with more exact RoPE angles would look wrong at long positions.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable


class Float64Mode(TorchFunctionMode):
    """Context manager: a torch function that is asked for float32 gives float64, in this thread."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the dtype float32 in the arguments of a call."""
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        if func is torch.Tensor.view:  # with a dtype it reads the same bytes as other numbers: nothing is computed
            return func(*args, **(kwargs or {}))
        lifted = {key: _lift(value) for key, value in (kwargs or {}).items()}
        return func(*(_lift(arg) for arg in args), **lifted)


def _lift(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


class _Request(Protocol):
    @property
    def dtype(self) -> str: ...


Side = TypeVar("Side")
Request = TypeVar("Request", bound=_Request)
Result = TypeVar("Result")


def compute_float64_throughout(method: Callable[[Side, Request], Result]) -> Callable[[Side, Request], Result]:
    """Decorate a method that answers a request: one for float64 runs in Float64Mode."""

    @wraps(method)
    def wrapped(self: Side, request: Request) -> Result:
        with Float64Mode() if request.dtype == "float64" else nullcontext():
            return method(self, request)

    return wrapped
