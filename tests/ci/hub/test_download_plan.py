"""Layout and ranges: every kept byte exactly once, in its place."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ci.hub.download_plan import build_weight_map, plan_output_files
from ci.hub.header import parse_header
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
