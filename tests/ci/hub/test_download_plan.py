"""Layout and ranges: every kept byte exactly once, in its place."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from ci.hub.download_plan import OutputFile, TensorSource, build_weight_map, plan_output_files, plan_pieces
from ci.hub.header import TensorInfo, parse_header

if TYPE_CHECKING:
    from collections.abc import Sequence


def source(name: str, begin: int, size: int, shard: str = "a", dtype: str = "U8") -> TensorSource:
    width = {"U8": 1, "F16": 2, "F32": 4}[dtype]
    return TensorSource(shard, TensorInfo(name, dtype, (size // width,), 0, size), begin, begin + size)


def simulate(outputs: Sequence[OutputFile], shards: dict[str, bytes], piece: int) -> dict[str, bytes]:
    """Return the bytes that the requests write."""
    written = {}
    for output in outputs:
        content = bytearray(output.header) + bytearray(output.size - len(output.header))
        for part in plan_pieces(output, piece_size=piece):
            content[part.offset : part.offset + part.size] = shards[part.shard][part.begin : part.end]
        written[output.name] = bytes(content)
    return written


def test_neighbours_become_one_range_and_gaps_do_not() -> None:
    (output,) = plan_output_files(
        [source("x", 100, 10), source("y", 110, 20), source("z", 140, 5)], max_file_size=10**9
    )
    assert [(p.begin, p.end) for p in plan_pieces(output, piece_size=1000)] == [(100, 130), (140, 145)]


def test_a_range_does_not_cross_shards_or_overlap_an_empty_tensor() -> None:
    (output,) = plan_output_files(
        [source("x", 8, 4, "a"), source("e", 12, 0, "a"), source("y", 16, 4, "b"), source("z", 12, 4, "a")],
        max_file_size=10**9,
    )
    assert [(p.shard, p.begin, p.end) for p in plan_pieces(output, piece_size=1000)] == [("a", 8, 16), ("b", 16, 20)]


def test_long_ranges_are_cut_for_resuming() -> None:
    (output,) = plan_output_files([source("x", 0, 25)], max_file_size=10**9)
    parts = plan_pieces(output, piece_size=10)
    assert [(p.begin, p.end) for p in parts] == [(0, 10), (10, 20), (20, 25)]
    assert [p.offset - parts[0].offset for p in parts] == [0, 10, 20]


def test_wide_dtypes_come_first_so_that_all_are_aligned() -> None:
    (output,) = plan_output_files(
        [source("odd", 0, 3), source("wide", 3, 8, dtype="F32"), source("half", 11, 2, dtype="F16")],
        max_file_size=10**9,
    )
    assert [placed.source.tensor.name for placed in output.tensors] == ["wide", "half", "odd"]
    assert output.tensors[0].offset % 8 == 0


def test_large_checkpoints_are_several_files_of_the_usual_names() -> None:
    outputs = plan_output_files([source(f"t{n}", n * 10, 10) for n in range(5)], max_file_size=20)
    assert [output.name for output in outputs] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert build_weight_map(outputs)["t4"] == "model-00003-of-00003.safetensors"
    assert [len(output.tensors) for output in outputs] == [2, 2, 1]


def test_a_tensor_larger_than_a_file_gets_its_own() -> None:
    outputs = plan_output_files([source("a", 0, 5), source("b", 5, 50), source("c", 55, 5)], max_file_size=20)
    assert [[placed.source.tensor.name for placed in output.tensors] for output in outputs] == [["a"], ["b"], ["c"]]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_kept_byte_lands_once_where_the_header_says(data: st.DataObject) -> None:
    dtypes = st.sampled_from(["U8", "F16", "F32"])
    shards, kept = {}, []
    for shard in ("a", "b"):
        at = 16
        for number in range(data.draw(st.integers(0, 6))):
            dtype, size = data.draw(dtypes), 4 * data.draw(st.integers(0, 5))
            if data.draw(st.booleans()):
                kept.append(source(f"{shard}{number}", at, size, shard, dtype))
            at += size
        shards[shard] = bytes(n % 251 for n in range(at))
    piece, max_file_size = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 60))
    outputs = plan_output_files(data.draw(st.permutations(kept)), max_file_size=max_file_size)
    assert outputs == plan_output_files(kept, max_file_size=max_file_size), "the layout depends on the order of asking"
    written = simulate(outputs, shards, piece)
    actual: dict[str, bytes] = {}
    for content in written.values():
        header = parse_header(content, len(content), what="x")
        actual |= {t.name: content[header.data_start + t.begin : header.data_start + t.end] for t in header.tensors}
    assert actual == {s.tensor.name: shards[s.shard][s.begin : s.end] for s in kept}
    for output in outputs:
        parts = plan_pieces(output, piece_size=piece)
        assert all(1 <= p.size <= piece for p in parts)
        assert all(before.offset + before.size == after.offset for before, after in pairwise(parts))
