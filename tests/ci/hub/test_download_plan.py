"""Layout and ranges: every kept byte exactly once, in its place."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.hub.download_plan import TensorSource, build_weight_map, plan_output_files
from ci.hub.header import Header, TensorInfo, parse_header, write_header
from tests.ci.hub.test_piece_plan import simulate, source


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
    max_file_size = data.draw(st.integers(1, 60))
    outputs = plan_output_files(data.draw(st.permutations(kept)), max_file_size=max_file_size)
    assert outputs == plan_output_files(kept, max_file_size=max_file_size), "the layout depends on the order of asking"
    written = simulate(outputs, shards, data.draw(st.integers(1, 9)))
    actual: dict[str, bytes] = {}
    for content in written.values():
        header = parse_header(content, len(content), what="x")
        actual |= {t.name: content[header.data_start + t.begin : header.data_start + t.end] for t in header.tensors}
    assert actual == {s.tensor.name: shards[s.shard][s.begin : s.end] for s in kept}


def make_shard(shard: str, tensors: list[TensorInfo], *, form: str = "pt") -> tuple[Header, list[TensorSource]]:
    """A shard's header and its tensors."""
    content = write_header(tensors, {"format": form, "made-by": "somebody"})
    header = parse_header(content, len(content) + tensors[-1].end, what=shard)
    start = header.data_start
    return header, [TensorSource(shard, tensor, start + tensor.begin, start + tensor.end) for tensor in tensors]


TWO = [TensorInfo("x.a", "F32", (2,), 0, 8), TensorInfo("x.b", "U8", (3,), 8, 11)]
ONE = [TensorInfo("y.c", "F16", (4,), 0, 8)]


def test_shards_of_which_nothing_is_left_out_are_copied() -> None:
    (first, two), (second, one) = make_shard("x", TWO), make_shard("y", ONE)
    outputs = plan_output_files([*one, *two], max_file_size=4, headers={"x": first, "y": second, "unused": second})
    assert [(o.name, o.copy_of) for o in outputs] == [
        ("model-00001-of-00002.safetensors", "x"),
        ("model-00002-of-00002.safetensors", "y"),
    ]
    assert [o.header for o in outputs] == [first.content, second.content]
    assert [[placed.offset for placed in o.tensors] for o in outputs] == [
        [source.begin for source in two],
        [source.begin for source in one],
    ]
    assert outputs[0].size == len(first.content) + 11


@pytest.mark.parametrize("change", ["left out", "renamed", "cut", "format", "unaligned", "no header"])
def test_shards_are_not_copied_where_anything_differs(change: str) -> None:
    tensors = [TensorInfo("x.a", "U8", (1,), 0, 1), TensorInfo("x.b", "F16", (1,), 1, 3)]
    tensors = tensors if change == "unaligned" else TWO
    first, two = make_shard("x", tensors, form="tf" if change == "format" else "pt")
    second, one = make_shard("y", ONE)
    if change == "left out":
        two = two[:1]
    if change == "renamed":
        two[0] = replace(two[0], tensor=replace(two[0].tensor, name="x.z"))
    if change == "cut":
        two[1] = replace(two[1], tensor=replace(two[1].tensor, shape=(2,)), end=two[1].end - 1)
    headers = {"y": second} if change == "no header" else {"x": first, "y": second}
    (output,) = plan_output_files([*two, *one], max_file_size=100, headers=headers)
    assert (output.copy_of, output.header) != ("x", first.content)
    assert len(output.tensors) == len(two) + 1
