"""Which wrong sum of squares gives the gradient norm that a subject reported. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci.layouts import Layout

MATCHES = 3e-6


@dataclass(frozen=True)
class GradientSquares:
    """Sums of squares of a gradient: all of it, of what every tensor rank holds whole, of tied embeddings.

    `limit` is the norm at which the gradient is clipped. `parts` are those of what each tensor rank holds, `stages`
    those of each stage of a pipeline.
    """

    total: float
    whole: float
    limit: float | None = None
    embeddings: float = 0.0
    parts: tuple[float, ...] = ()
    stages: tuple[float, ...] = ()


def describe_norm(actual: float, squares: GradientSquares, layout: Layout) -> str:
    """Return which wrong norm it is; empty where it is right, or no known one."""
    if _is_near(actual, squares.total):
        return ""
    return next((words for words, value in _list_wrong_squares(squares, layout) if _is_near(actual, value)), "")


def _list_wrong_squares(squares: GradientSquares, layout: Layout) -> Iterator[tuple[str, float]]:
    total, whole, tied = squares.total, squares.whole, squares.embeddings
    if layout.tensor > 1:
        yield "parameters that every tensor rank holds count once a rank", total + (layout.tensor - 1) * whole
        yield "parameters that every tensor rank holds are left out", total - whole
        for rank, part in enumerate(squares.parts):
            yield f"only tensor rank {rank}'s part counts: the sum over the tensor ranks is missing", part
    if layout.pipeline > 1:
        for stage, part in enumerate(squares.stages):
            yield f"only stage {stage}'s parameters count: the sum over the stages is missing", part
        yield "the tied embeddings count on both stages", total + tied
        yield "the tied embeddings count on no stage", total - tied
    for axis, degree in _list_degrees(layout).items():
        yield f"it is counted once for each of the {degree} {axis}", total * degree
        yield f"it is divided by the root of the {degree} {axis}", total / degree
        yield f"it is {degree} times as large: norms of the {axis} are added, not their squares", total * degree**2
        yield f"it has 1/{degree} of its size", total / degree**2
    if squares.limit is not None:
        yield "the norm after clipping is reported", squares.limit**2
    yield "it is the square of the norm", total**2


def _list_degrees(layout: Layout) -> Mapping[str, int]:
    degrees = {
        "tensor ranks": layout.tensor,
        "stages": layout.pipeline,
        "data ranks": layout.data,
        "micro-batches": layout.micro_batches,
    }
    return {axis: degree for axis, degree in degrees.items() if degree > 1}


def _is_near(actual: float, square: float) -> bool:
    return square > 0 and abs(actual - square**0.5) <= MATCHES * square**0.5
