"""Plan what is requested: spans of upstream files, with the place of each byte in the output files. Pure.

Tensors that lie side by side upstream share a span, whatever their dtype and output file. Small gaps between kept
tensors are requested too and thrown away, because a request costs more time than they do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ci.hub.download_plan import OutputFile

MAX_GAP = 16 * 1024
"""Bytes: the longest gap that is requested. At 1 MB/s a connection it takes as long as half a round trip of 30 ms."""
GAP_SHARE = 0.001
"""The gaps' bytes ÷ the kept bytes, at most. The smallest gaps come first."""
MIN_PIECE = 256 * 1024
PIECES = 1024
"""About as many pieces as a download is cut into, while they are neither shorter nor longer than the limits."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes [begin, end) of an upstream file, which go to byte `offset` of the file `output`."""

    begin: int
    end: int
    output: str
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes [begin, end) of the file `shard`: what an interruption keeps or loses.

    One request may cover pieces with consecutive `position`. `parts` are the kept bytes, in order.
    """

    shard: str
    begin: int
    end: int
    parts: tuple[Part, ...]
    position: int

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(part.end - part.begin for part in self.parts)


def choose_piece_size(total: int, largest: int) -> int:
    """Return the bytes of a piece for a download of `total` bytes: a power of two times the smallest."""
    size = min(MIN_PIECE, largest)
    while size < largest and size * PIECES < total:
        size *= 2
    return min(size, largest)


def plan_pieces(outputs: Sequence[OutputFile], *, piece_size: int) -> tuple[Piece, ...]:
    """Plan pieces of at most `piece_size` bytes, roughly in the order of the outputs' bytes.

    In that order the files can be hashed while the rest is downloaded.
    """
    order = {output.name: number for number, output in enumerate(outputs)}
    by_shard = _list_parts(outputs)
    bridged = _find_bridged_gaps(by_shard)
    pieces: list[Piece] = []
    position = 0
    for shard, parts in by_shard.items():
        for run in _split_runs(parts, shard, bridged):
            position += 1  # skips a number, so that no request spans two runs
            for cut in _cut_run(run, piece_size):
                pieces.append(Piece(shard, cut[0].begin, cut[-1].end, tuple(cut), position))
                position += 1
    return tuple(sorted(pieces, key=lambda piece: min((order[part.output], part.offset) for part in piece.parts)))


def _list_parts(outputs: Iterable[OutputFile]) -> dict[str, list[Part]]:
    """Return the kept bytes of each upstream file in order, neighbors joined."""
    by_shard: dict[str, list[Part]] = {}
    for output in outputs:
        for placed in output.tensors:
            source = placed.source
            if source.begin < source.end:
                part = Part(source.begin, source.end, output.name, placed.offset)
                by_shard.setdefault(source.shard, []).append(part)
    return {shard: list(_join_parts(sorted(by_shard[shard], key=lambda p: p.begin))) for shard in sorted(by_shard)}


def _join_parts(parts: Iterable[Part]) -> Iterator[Part]:
    joined: Part | None = None
    for part in parts:
        if joined and (part.begin, part.output, part.offset - joined.offset) == (
            joined.end,
            joined.output,
            joined.end - joined.begin,
        ):
            joined = replace(joined, end=part.end)
            continue
        if joined:
            yield joined
        joined = part
    if joined:
        yield joined


def _find_bridged_gaps(by_shard: dict[str, list[Part]]) -> set[tuple[str, int]]:
    """Return file and offset of the gaps to request: the smallest, as many as their share allows."""
    gaps = sorted(
        (after.begin - before.end, shard, before.end)
        for shard, parts in by_shard.items()
        for before, after in pairwise(parts)
        if 0 < after.begin - before.end <= MAX_GAP
    )
    budget = GAP_SHARE * sum(part.end - part.begin for parts in by_shard.values() for part in parts)
    bridged = set()
    for size, shard, offset in gaps:
        budget -= size
        if budget < 0:
            break
        bridged.add((shard, offset))
    return bridged


def _split_runs(parts: list[Part], shard: str, bridged: set[tuple[str, int]]) -> Iterator[list[Part]]:
    run: list[Part] = []
    for part in parts:
        if run and part.begin != run[-1].end and (shard, run[-1].end) not in bridged:
            yield run
            run = []
        run.append(part)
    if run:
        yield run


def _cut_run(run: list[Part], piece_size: int) -> Iterator[list[Part]]:
    """Cut a run into spans of at most `piece_size` bytes; none begins or ends in a gap."""
    cut: list[Part] = []
    for whole in run:
        part = whole
        while part.begin < part.end:
            if cut and part.begin >= cut[0].begin + piece_size:
                yield cut
                cut = []
            limit = (cut[0].begin if cut else part.begin) + piece_size
            end = min(part.end, limit)
            cut.append(replace(part, end=end))
            part = replace(part, begin=end, offset=part.offset + end - part.begin)
    if cut:
        yield cut
