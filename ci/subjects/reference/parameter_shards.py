"""Which part of each parameter a rank holds, and how parts are put together again.

A parameter of Fast-LLM is several Hugging Face tensors stacked (`ci.subjects.reference.convert`): each of them is cut
alone, so that a rank holds its share of the query, of the key and of the value, and of every expert.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ci.errors import UnsupportedError
from ci.subjects.reference.config import Attention
from ci.subjects.reference.offer import DIVISIBLE, ENOUGH_LAYERS, PLAIN, TIED
from ci.subjects.reference.weight_names import EMBEDDINGS_WEIGHT, FINAL_NORM_WEIGHT, HEAD_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ci.layouts import Layout
    from ci.subjects.reference.config import Architecture, Block
    from ci.subjects.reference.parameter import Parameter
    from ci.subjects.reference.rank_groups import RankPlace

ROW_CUT = ("query.weight", "query.bias", "key_value.weight", "key_value.bias", "layer_1.weight", "layer_1.bias")
"""Ends of the names of what is cut by rows, each part alone: columns of the linear layer's output."""


def find_cut_axis(name: str) -> int | None:
    """Return the axis along which tensor ranks cut a parameter, None where each holds all of it."""
    if name.endswith((*ROW_CUT, "layer_2.weight")) or name in (EMBEDDINGS_WEIGHT, HEAD_WEIGHT):
        return 0
    return 1 if name.endswith("dense.weight") else None


def cut_range(size: int, index: int, count: int) -> range:
    """Return the share of `size` items of rank `index` of `count`: as equal as possible, larger ones first."""
    share, rest = divmod(size, count)
    begin = index * share + min(index, rest)
    return range(begin, begin + share + (index < rest))


def cut_parameter(parameter: Parameter, tensor: Tensor, index: int, count: int) -> Tensor:
    """Return the part of a full parameter that tensor rank `index` of `count` holds."""
    axis = find_cut_axis(parameter.name)
    if axis is None or count == 1:
        return tensor.clone()
    if axis == 1:
        kept = cut_range(tensor.shape[1], index, count)
        return tensor[:, kept.start : kept.stop].clone()
    blocks = tensor.split_with_sizes([part.rows for part in parameter.parts])
    ranges = [cut_range(len(block), index, count) for block in blocks]
    return torch.cat([block[r.start : r.stop] for block, r in zip(blocks, ranges, strict=True)])


def join_parameter(parameter: Parameter, parts: Sequence[Tensor]) -> Tensor:
    """Return the full parameter of the parts of all tensor ranks, in their order."""
    axis = find_cut_axis(parameter.name)
    if axis is None or len(parts) == 1:
        return parts[0]
    if axis == 1:
        return torch.cat(list(parts), dim=1)
    sizes = [[len(cut_range(p.rows, index, len(parts))) for p in parameter.parts] for index in range(len(parts))]
    cut = [part.split_with_sizes(rows) for part, rows in zip(parts, sizes, strict=True)]
    return torch.cat([torch.cat(list(pieces)) for pieces in zip(*cut, strict=True)])


@dataclass(frozen=True)
class Stage:
    """What a rank of a pipeline holds: consecutive blocks, and whether the embeddings and the head."""

    blocks: range
    embeddings: bool
    head: bool

    def holds(self, name: str, *, tied: bool) -> bool:
        """Return whether a parameter is on this stage; tied embeddings are on both ends."""
        if name == EMBEDDINGS_WEIGHT:
            return self.embeddings or (tied and self.head)
        if name in (HEAD_WEIGHT, FINAL_NORM_WEIGHT):
            return self.head
        return int(name.split(".")[1]) in self.blocks


def find_stage(place: RankPlace, architecture: Architecture) -> Stage:
    """Return the stage of a rank."""
    blocks = cut_range(len(architecture.blocks), place.pipeline, place.layout.pipeline)
    return Stage(blocks, place.is_first_stage, place.is_last_stage)


def cut_architecture(architecture: Architecture, count: int) -> Architecture:
    """Return the architecture of what one of `count` tensor ranks computes: fewer heads, a narrower MLP."""
    return replace(architecture, blocks=tuple(_cut_block(block, count) for block in architecture.blocks))


def find_layout_problem(architecture: Architecture, layout: Layout) -> str:
    """Return what a model lacks for a layout, as a need of a variant; empty where it lacks nothing."""
    blocks = architecture.blocks
    if (
        architecture.prediction_heads > 1
        or architecture.vision
        or not all(isinstance(block.mixer, Attention) for block in blocks)
    ):
        return PLAIN
    if any(b.attention.kv_heads % layout.tensor or b.mlp.intermediate % layout.tensor for b in blocks):
        return DIVISIBLE
    if len(blocks) < layout.pipeline:
        return ENOUGH_LAYERS
    return TIED if layout.separate_tied and not architecture.tied else ""


def check_layout(architecture: Architecture, layout: Layout) -> None:
    """Raise UnsupportedError for a model that lacks something for the layout."""
    if problem := find_layout_problem(architecture, layout):
        raise UnsupportedError(f"reference: layout {layout.name} needs {problem}, which this model has not")


def _cut_block(block: Block, count: int) -> Block:
    attention, mlp = block.attention, block.mlp
    return replace(
        block,
        mixer=replace(attention, heads=attention.heads // count, kv_heads=attention.kv_heads // count),
        mlp=replace(mlp, intermediate=mlp.intermediate // count),
    )
