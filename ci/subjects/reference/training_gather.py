"""Puts the parts that ranks wrote together: full parameters, and which copies of one tensor disagree."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Literal

import torch

from ci.subjects.rank_copies import SAME, compare_copies
from ci.subjects.reference.parameter_shards import find_cut_axis, find_stage, join_parameter
from ci.subjects.reference.rank_groups import RankPlace
from ci.subjects.training import Disagreement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from ci.layouts import Layout
    from ci.subjects.reference.config import Architecture
    from ci.subjects.reference.parameter import Parameter


def list_holders(name: str, layout: Layout, architecture: Architecture) -> list[RankPlace]:
    """List the ranks that hold a parameter or a part of it."""
    places = [RankPlace(layout, rank) for rank in range(layout.ranks)]
    return [p for p in places if find_stage(p, architecture).holds(name, tied=architecture.tied)]


def join_ranks(
    parameters: Sequence[Parameter], ranks: Sequence[Mapping[str, Tensor]], layout: Layout, architecture: Architecture
) -> dict[str, Tensor]:
    """Return every full parameter, from the first model copy and the first stage that holds it."""
    joined = {}
    for parameter in parameters:
        first = list_holders(parameter.name, layout, architecture)[0]
        parts = [ranks[rank][parameter.name] for rank in first.list_members("tensor")]
        joined[parameter.name] = join_parameter(parameter, parts)
    return joined


def find_disagreements(
    parameters: Sequence[Parameter],
    ranks: Sequence[Mapping[str, Tensor]],
    layout: Layout,
    architecture: Architecture,
    kind: Literal["gradient", "weight"],
    step: int,
) -> Iterator[Disagreement]:
    """Yield the copies of one tensor that differ: of model copies, of tensor ranks, of both ends of a pipeline."""
    for parameter in parameters:
        name = parameter.name
        cut = find_cut_axis(name) is not None
        holders = sorted(
            list_holders(name, layout, architecture), key=lambda place: (place.tensor if cut else 0, place.rank)
        )
        for _, group in groupby(holders, key=lambda place: place.tensor if cut else 0):
            first, *others = [place.rank for place in group]
            for other in others:
                error = compare_copies(ranks[first][name], ranks[other][name])
                if not error <= SAME:
                    yield Disagreement(name, kind, (first, other), error, step)


def split_to_huggingface(parameters: Sequence[Parameter], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut full Fast-LLM parameters into their Hugging Face tensors."""
    split = {}
    for parameter in parameters:
        rows = tensors[parameter.name].split_with_sizes([part.rows for part in parameter.parts])
        for part, row in zip(parameter.parts, rows, strict=True):
            split[part.name] = (row.t() if part.transposed else row).contiguous()
    return split


def join_slices(slices: Sequence[Tensor], like: torch.Size) -> Tensor:
    """Return the whole of the slices of a flattened tensor, without the zeros at its end."""
    return torch.cat(list(slices))[: like.numel()].view(like)
