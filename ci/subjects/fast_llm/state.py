"""Full tensors of a loaded model, gathered over its ranks, under Fast-LLM's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

WEIGHTS, GRADIENTS = "weights", "grads"


def gather(model: Any, shard: str) -> dict[str, Tensor]:
    """Return this pipeline stage's full tensors on the CPU. Every rank must call it."""
    return {name: tensor.detach().cpu().clone() for name, tensor in _iterate(model, shard)}


def _iterate(model: Any, shard: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a shard, zeros for the gradients of frozen parameters, which Fast-LLM does not keep.

    Fast-LLM's own iterator over its state fails there: it views an empty buffer in the parameter's shape.
    """
    parts = model._shards[shard].split(model._get_stage_shard_sizes(shard), 0)
    sizes = model._get_fsdp_shard_sizes(shard)
    for (number, stage), part, cuts in zip(model.stages_on_device.items(), parts, sizes, strict=True):
        if number not in model._stages_owned:
            continue
        for fsdp, own in zip(stage.fsdps, part.split(cuts), strict=True):
            if shard == GRADIENTS and not fsdp.requires_grad:
                yield from _list_zeros(fsdp, part)
            else:
                yield from fsdp.export_shard(own)


def _list_zeros(fsdp: Any, like: Tensor) -> Iterator[tuple[str, Tensor]]:
    for name in fsdp.parameter_names:
        yield name, like.new_zeros(tuple(fsdp.get_parameter_meta(name).global_shape))
