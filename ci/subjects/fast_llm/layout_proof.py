"""Proves a layout of Fast-LLM on one rank: who is in its groups, what it holds, and which copies differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci.subjects.rank_copies import SAME, compare_copies
from ci.subjects.training import Disagreement, RankReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

GROUPS = {
    "tensor": "tensor_group",
    "pipeline": "pipeline_group",
    "data": "batch_data_group",
    "sequence_data": "sequence_data_group",
}
"""Our name of an axis → Fast-LLM's process group."""


def describe_rank(rank: int, model: Any) -> RankReport:
    """Report a rank: groups as their members answered, and local shapes. Every rank must call it.

    Of a model whose state is cut over data ranks, the slice of each stage is reported too, and under ZeRO 2 and 3 how
    many buffers for full gradients and full weights there are.
    """
    distributed = model.distributed
    device = distributed.device
    groups = {axis: _ask_members(getattr(distributed, name), rank, device) for axis, name in GROUPS.items()}
    return RankReport(
        rank,
        {axis: members for axis, members in groups.items() if len(members) > 1},
        str(distributed.device),
        dict(_list_shapes(model)),
    )


def find_disagreements(
    model: Any, tensors: Mapping[str, Tensor], kind: Any, step: int, rank: int
) -> Iterator[Disagreement]:
    """Yield tensors that differ from those of the tensor or data group's first rank.

    All ranks of a group must call it to the end, with the same names.
    """
    distributed = model.distributed
    for group in (distributed.tensor_group, distributed.data_group):
        for name, tensor in tensors.items() if group is not None else ():
            first, error = _compare_with_first(group, tensor.to(distributed.device), rank)
            if not error <= SAME:
                yield Disagreement(name, kind, (first, rank), error, step)


def _compare_with_first(group: Any, tensor: Tensor, rank: int) -> tuple[int, float]:
    """Return the first rank of a group, and the relative L2 difference to its tensor."""
    import torch
    from fast_llm.core.distributed import broadcast

    theirs, first = tensor.clone(), torch.tensor([rank], device=tensor.device)
    broadcast(first, 0, group)
    broadcast(theirs, 0, group)
    return int(first), compare_copies(theirs, tensor)


def _ask_members(group: Any, rank: int, device: Any) -> tuple[int, ...]:
    """Return the ranks that answer in a group: nothing of its configuration is believed."""
    if group is None:
        return (rank,)
    import torch
    from fast_llm.core.distributed import all_gather_into_tensor

    members = torch.empty(group.size(), dtype=torch.int64, device=device)
    all_gather_into_tensor(members, torch.tensor([rank], device=device), group)
    return tuple(int(member) for member in members)


def _list_shapes(model: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    for index, stage in model.stages_on_device.items():
        for fsdp in stage.fsdps:
            for name in fsdp.parameter_names:
                yield name, tuple(stage.get_parameter_meta(name).shape)
        if model.config.distributed.data_parallel > 1:
            yield f"stage {index}/slice", (sum(fsdp.weight_shard_meta.numel() for fsdp in stage.fsdps),)
    if (model.config.multi_stage.zero_stage or 1) >= 2:
        yield "gradient_buffers", (len(model._grad_buffers),)
        yield "weight_buffers", (len(model._weight_buffers),)
