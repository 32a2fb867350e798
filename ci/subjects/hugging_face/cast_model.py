"""Makes a loaded Hugging Face model one of another dtype, which costs less than to read the checkpoint again.

The numbers are those of a model that was loaded in that dtype. Its weights are the checkpoint's, rounded once: the
loaded model must hold them exactly. Everything else (buffers such as the RoPE frequencies, settings that follow the
dtype) is made anew, by the model's own constructor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from ci.subjects.forward import DTYPES

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import DType

EXACT_IN: dict[DType, frozenset[str]] = {
    "float64": frozenset({"F64", "F32", "BF16", "F16"}),
    "float32": frozenset({"F32", "BF16", "F16"}),
}
"""The dtypes of stored tensors that a model's dtype holds exactly, in the names of safetensors."""


def read_stored_dtypes(checkpoint: Path) -> frozenset[str]:
    """Return the dtypes of the tensors on disk, in the names of safetensors."""
    found: set[str] = set()
    for file in checkpoint.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            found.update(opened.get_slice(name).get_dtype() for name in opened.keys())  # noqa: SIM118
    return frozenset(found)


def can_cast(model: Any, held: DType, stored: frozenset[str]) -> bool:
    """Return whether a model loaded in `held` has exactly the checkpoint's weights, all in it.

    A model with buffers on disk is left alone: its constructor could not make them.
    """
    if not stored or not stored <= EXACT_IN.get(held, frozenset()):
        return False
    saved = model.state_dict(keep_vars=True).keys()
    on_disk = any(name in saved for name, _ in model.named_buffers())
    return not on_disk and all(weight.dtype == DTYPES[held] for weight in model.parameters())


def has_same_parts(model: Any, other: Any) -> bool:
    """Return whether two models have the same parameters, of the same shapes, and the same buffers."""
    parts = [
        ([(name, p.shape) for name, p in m.named_parameters(remove_duplicate=False)], [n for n, _ in m.named_buffers()])
        for m in (model, other)
    ]
    return parts[0] == parts[1]


def move_weights(model: Any, new: Any, dtype: DType) -> None:
    """Move the weights of `model` into `new`, cast one by one; `model` has none of them afterwards.

    Each tensor is freed before the next one is cast.
    """
    device = next(model.parameters()).device
    for name, buffer in list(new.named_buffers()):
        _set(new, name, buffer.to(device))
    identities = {name: id(weight) for name, weight in model.named_parameters(remove_duplicate=False)}
    moved: dict[int, torch.nn.Parameter] = {}
    for name, identity in identities.items():  # tied weights have several names and stay one
        if identity not in moved:
            weight = model.get_parameter(name).detach()
            moved[identity] = torch.nn.Parameter(weight.to(DTYPES[dtype]))
        _set(new, name, moved[identity])
        _set(model, name, torch.nn.Parameter(torch.empty(0)))


def _set(model: Any, name: str, value: torch.Tensor) -> None:
    """Put a parameter or a buffer in its place."""
    path, _, last = name.rpartition(".")
    owner = model.get_submodule(path)
    (owner._parameters if isinstance(value, torch.nn.Parameter) else owner._buffers)[last] = value
