"""Pieces: every kept byte exactly once, few spans, and nothing of what was left out."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from ci.hub.download_plan import OutputFile, TensorSource, plan_output_files
from ci.hub.header import TensorInfo
from ci.hub.piece_plan import GAP_SHARE, MAX_GAP, MIN_PIECE, Piece, choose_piece_size, plan_pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

MANY = 10**9


def source(name: str, begin: int, size: int, shard: str = "a", dtype: str = "U8") -> TensorSource:
    width = {"U8": 1, "F16": 2, "F32": 4}[dtype]
    return TensorSource(shard, TensorInfo(name, dtype, (size // width,), 0, size), begin, begin + size)


def plan(*sources: TensorSource, piece: int = 10**6) -> tuple[Piece, ...]:
    return plan_pieces(plan_output_files(sources, max_file_size=MANY), piece_size=piece)


def simulate(outputs: Sequence[OutputFile], shards: dict[str, bytes], piece: int) -> dict[str, bytes]:
    """Return the bytes that the requests write."""
    written = {output.name: bytearray(output.header.ljust(output.size, b"?")) for output in outputs}
    for planned in plan_pieces(outputs, piece_size=piece):
        for part in planned.parts:
            assert planned.begin <= part.begin < part.end <= planned.end
            size = part.end - part.begin
            written[part.output][part.offset : part.offset + size] = shards[planned.shard][part.begin : part.end]
    return {name: bytes(content) for name, content in written.items()}


def test_neighbours_become_one_span_and_far_ones_do_not() -> None:
    pieces = plan(source("x", 100, 10), source("y", 110, 20), source("z", 130 + MAX_GAP + 1, 5))
    assert [(p.begin, p.end) for p in pieces] == [(100, 130), (130 + MAX_GAP + 1, 135 + MAX_GAP + 1)]
    assert pieces[1].position > pieces[0].position + 1, "a request would span what was left out"


def test_a_span_does_not_cross_shards_or_overlap_an_empty_tensor() -> None:
    pieces = plan(source("x", 8, 4, "a"), source("e", 12, 0, "a"), source("y", 16, 4, "b"), source("z", 12, 4, "a"))
    assert [(p.shard, p.begin, p.end) for p in pieces] == [("a", 8, 16), ("b", 16, 20)]


def test_long_spans_are_cut_for_resuming_and_may_share_a_request() -> None:
    pieces = plan(source("x", 0, 25), piece=10)
    assert [(p.begin, p.end) for p in pieces] == [(0, 10), (10, 20), (20, 25)]
    assert [p.parts[0].offset - pieces[0].parts[0].offset for p in pieces] == [0, 10, 20]
    assert [p.position - pieces[0].position for p in pieces] == [0, 1, 2]


def test_neighbours_of_different_dtypes_share_a_span() -> None:
    """An FP8 weight and its scale lie side by side upstream, and far apart in the output."""
    tensors = []
    for number in range(100):
        tensors.append(source(f"w{number}", 68 * number, 64))
        tensors.append(source(f"s{number}", 68 * number + 64, 4, dtype="F32"))
    (piece,) = plan(*tensors)
    assert (piece.begin, piece.end, piece.size) == (0, 6800, 6800)


def test_small_gaps_are_requested_too_within_their_share() -> None:
    tensors = [source(f"t{number}", number * 100_050, 100_000) for number in range(4)]
    (piece,) = plan(*tensors)
    assert (piece.end - piece.begin, piece.size) == (3 * 100_050 + 100_000, 400_000)
    wide = [source(f"t{number}", number * 101_000, 100_000) for number in range(4)]
    moved = sum(p.end - p.begin for p in plan(*wide))
    assert len(plan(*wide)) == 4
    assert moved <= 400_000 * (1 + GAP_SHARE)


def test_the_smallest_gaps_come_first() -> None:
    pieces = plan(source("a", 0, 100_000), source("b", 100_090, 100_000), source("c", 200_100, 100_000))
    assert [(p.begin, p.end) for p in pieces] == [(0, 300_100)]
    pieces = plan(source("a", 0, 100_000), source("b", 100_290, 100_000), source("c", 200_300, 100_000))
    assert [(p.begin, p.end) for p in pieces] == [(0, 300_300)]
    pieces = plan(source("a", 0, 100_000), source("b", 100_299, 100_000), source("c", 200_309, 100_000))
    assert [(p.begin, p.end) for p in pieces] == [(0, 100_000), (100_299, 300_309)]


def test_output_order_lets_hashes_follow() -> None:
    """The wide dtype of every shard comes first in the output, so it is requested first."""
    tensors = [
        source(f"{shard}{dtype}", at, 40, shard, dtype) for shard in "ab" for at, dtype in ((0, "F32"), (40, "U8"))
    ]
    pieces = plan(*tensors, piece=40)
    assert [(p.shard, p.begin) for p in pieces] == [("a", 0), ("b", 0), ("a", 40), ("b", 40)]


def test_the_piece_size_grows_with_the_download() -> None:
    assert choose_piece_size(55 * 10**6, 4 * 2**20) == MIN_PIECE
    assert choose_piece_size(2**30, 4 * 2**20) == 2**20
    assert choose_piece_size(10**12, 4 * 2**20) == 4 * 2**20
    assert choose_piece_size(10**12, 1000) == 1000


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_pieces_are_short_and_hold_each_kept_byte_once(data: st.DataObject) -> None:
    at, kept = 16, []
    for number in range(data.draw(st.integers(0, 8))):
        size = 4 * data.draw(st.integers(0, 500))
        if data.draw(st.booleans()):
            kept.append(source(f"t{number}", at, size, dtype=data.draw(st.sampled_from(["U8", "F32"]))))
        at += size
    piece = data.draw(st.integers(1, 900))
    pieces = plan(*kept, piece=piece)
    assert all(0 < p.end - p.begin <= piece for p in pieces)
    covered = sorted((part.begin, part.end) for p in pieces for part in p.parts)
    assert all(before[1] <= after[0] for before, after in pairwise(covered))
    assert sum(end - begin for begin, end in covered) == sum(s.end - s.begin for s in kept)
    assert len({p.position for p in pieces}) == len(pieces)
