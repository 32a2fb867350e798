"""Whether a run really had its layout: its ranks, their groups, and what each rank held. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ci.layouts import LAYOUT_AXIS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.layouts import Layout
    from ci.subjects.training import RankReport, TrainResult


def list_layout_problems(layout: Layout, result: TrainResult, elements: int) -> list[str]:
    """List what contradicts that `layout` ran; `elements` counts those of all parameters of the model."""
    return [f"layout {layout.name}: {problem}" for problem in _find_problems(layout, result, elements)]


def describe_layout(layout: Layout, result: TrainResult) -> str:
    """Say in one line where the ranks ran and how they were grouped."""
    devices = ", ".join(dict.fromkeys(rank.device for rank in result.ranks))
    where = f"{len(result.ranks)} ranks on {devices}" if len(result.ranks) != 1 else f"one rank on {devices}"
    over = f" over {result.backend}" if result.backend else ""
    first = result.ranks[0].groups if result.ranks else {}
    groups = "; ".join(f"{axis} {', '.join(map(str, members))}" for axis, members in first.items() if len(members) > 1)
    return f"{layout.name}: {where}{over}" + (f"; rank 0 is in {groups}" if groups else "")


def _find_problems(layout: Layout, result: TrainResult, elements: int) -> Iterator[str]:
    ran, ranks = result.ran.get(LAYOUT_AXIS, "nothing reported"), result.ranks
    if ran != layout.name:
        yield f"{ran} ran instead"
    if sorted(rank.rank for rank in ranks) != list(range(layout.ranks)):
        yield f"{len(ranks)} ranks reported, expected {layout.ranks}"
        return
    if layout.ranks > 1 and not result.backend:
        yield "no library of collectives is named"
    yield from _find_group_problems(layout, ranks)
    yield from _find_share_problems(layout, ranks, elements)


def _find_group_problems(layout: Layout, ranks: tuple[RankReport, ...]) -> Iterator[str]:
    """Yield the ranks whose group on an axis of the layout has a wrong size."""
    degrees = {
        "tensor": layout.tensor,
        "pipeline": layout.pipeline,
        "data": layout.data,
        "sequence_data": layout.sequence_data,
    }
    for axis, degree in degrees.items():
        for rank in ranks:
            members = rank.groups.get(axis, (rank.rank,))
            if degree > 1 and (len(set(members)) != degree or rank.rank not in members):
                yield f"rank {rank.rank} is in a {axis} group of {len(set(members))}, expected {degree}"


def _find_share_problems(layout: Layout, ranks: tuple[RankReport, ...], elements: int) -> Iterator[str]:
    """Yield the ranks that held as much as a model that is not cut at all."""
    cut = layout.tensor > 1 or layout.pipeline > 1
    for rank in ranks:
        held = sum(math.prod(shape) for shape in rank.parameters.values())
        if not rank.parameters:
            yield f"rank {rank.rank} does not say what it held"
        elif cut and held >= elements:
            yield f"rank {rank.rank} held {held} elements, all {elements} of the model: nothing was cut"
    if layout.pipeline > 1 and len({frozenset(rank.parameters) for rank in ranks}) < layout.pipeline:
        yield "every stage of the pipeline held the same parameters"
