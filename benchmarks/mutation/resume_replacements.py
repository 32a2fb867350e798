"""Wrong replacements of saving, resuming and exporting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def resume_without(*kinds: str, step: bool = False) -> Callable[[Any], Any]:
    """Return a loader that loses moments of the given kinds, or the step."""

    def make(original: Any) -> Any:
        def cut(state: Any, held: Any, place: Any, optimizer: Any) -> Any:
            weights = original(state, held, place, optimizer)
            for moments in optimizer.moments.values():
                for kind in kinds:
                    getattr(moments, kind).zero_()
            optimizer.step = 0 if step else optimizer.step
            return weights

        return cut

    return make


def resume_first_documents(original: Any) -> Any:
    """Train on the first documents again after resuming."""
    from dataclasses import replace

    return lambda rank, request, directory: original(rank, replace(request, resume_steps=0), directory)


def read_missing_as_zeros(original: Any) -> Any:
    """Read a missing tensor as zeros."""

    def select(tensors: Any, kind: str) -> Any:
        found = original(tensors, kind)
        weights = original(tensors, "weights")
        return {name: found.get(name, torch.zeros_like(weight)) for name, weight in weights.items()}

    return select


def read_unchecked(original: Any) -> Any:
    """Read a shard without comparing it with its index."""
    from safetensors.torch import load_file

    return lambda path, expected: load_file(path) if path.is_file() else original(path, expected)


def repeat_first_slice(original: Any) -> Any:
    """Put the first slice in the place of every other one."""
    return lambda slices, like: original([slices[0]] * len(slices), like)


def export_rounded(_: Any) -> Any:
    """Round the exported weights to bfloat16."""
    return lambda tensor: [tensor.bfloat16().float()]
