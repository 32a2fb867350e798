"""The trace directory: written scope by scope, complete only with trace.json, read lazily, distrusted when read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from ci.errors import RequestError, SubjectError
from ci.subjects.trace_files import TraceReader, TraceWriter
from ci.tensor_names import scope_of

if TYPE_CHECKING:
    from pathlib import Path


def written(path: Path, *, blocks: int = 2) -> TraceWriter:
    writer = TraceWriter(path)
    writer.write_scope("embeddings", {"embeddings": torch.arange(6.0).reshape(1, 2, 3)})
    for i in range(blocks):
        writer.write_scope(
            f"decoder.{i}", {f"decoder.{i}.norm_1": torch.ones(1, 2, 3), f"decoder.{i}": torch.full((1, 2, 3), i)}
        )
    writer.write_scope("head", {"final_norm": torch.zeros(1, 2, 3), "logits": torch.zeros(1, 2, 5)})
    return writer


def finish(writer: TraceWriter) -> None:
    writer.finish(ran={"attention": "eager"}, dtype="float32", device="cpu", seconds=0.5)


def test_what_is_written_is_read_back_in_execution_order(tmp_path: Path) -> None:
    finish(written(tmp_path / "trace"))
    reader = TraceReader(tmp_path / "trace")
    assert reader.scopes == ("embeddings", "decoder.0", "decoder.1", "head")
    assert list(reader)[:3] == ["embeddings", "decoder.0.norm_1", "decoder.0"]
    assert reader.tensor("decoder.1").tolist() == [[[1, 1, 1], [1, 1, 1]]]
    assert (reader.result.ran, reader.result.seconds) == ({"attention": "eager"}, 0.5)
    assert "logits" in reader
    assert "decoder.7" not in reader


def test_without_trace_json_a_directory_is_no_trace(tmp_path: Path) -> None:
    written(tmp_path / "trace")
    with pytest.raises(SubjectError, match=r"not a finished trace: it has no trace\.json"):
        TraceReader(tmp_path / "trace")


def test_an_existing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="exists"):
        TraceWriter(tmp_path)


@pytest.mark.parametrize("scope", ["../x", "decoder.01", "decoder.0", "blocks"])
def test_an_unknown_or_repeated_scope_is_refused(tmp_path: Path, scope: str) -> None:
    writer = written(tmp_path / "trace")
    with pytest.raises(SubjectError, match=r"unknown|was already written"):
        writer.write_scope(scope, {})


def test_a_stray_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"'decoder\.1\.mlp' does not belong to scope 'decoder\.0'"):
        TraceWriter(tmp_path / "trace").write_scope("decoder.0", {"decoder.1.mlp": torch.zeros(1)})


def test_a_missing_mandatory_tensor_is_named(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "trace")
    writer.write_scope("embeddings", {"embeddings": torch.zeros(1)})
    writer.write_scope("decoder.1", {"decoder.1": torch.zeros(1)})
    writer.write_scope("head", {"final_norm": torch.zeros(1), "logits": torch.zeros(1)})
    with pytest.raises(SubjectError, match=r"mandatory tensor 'decoder\.0'"):
        finish(writer)
    assert not (tmp_path / "trace" / "trace.json").exists()


def test_views_of_one_storage_are_stored(tmp_path: Path) -> None:
    both = torch.arange(4.0)
    writer = TraceWriter(tmp_path / "trace")
    writer.write_scope(
        "decoder.0", {"decoder.0.mixer.key": both[:2], "decoder.0.mixer.value": both[2:], "decoder.0": both}
    )
    writer.write_scope("embeddings", {"embeddings": both.bfloat16()})
    writer.write_scope("head", {"final_norm": both, "logits": both.view(2, 2).T})
    finish(writer)
    reader = TraceReader(tmp_path / "trace")
    assert reader.tensor("decoder.0.mixer.value").tolist() == [2, 3]
    assert reader.tensor("logits").tolist() == [[0, 2], [1, 3]]
    assert reader.tensor("embeddings").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scopes", ["../../etc"], "do not fit"),
        ("scopes", ["embeddings"], "do not fit"),
        ("ran", "dropless", "ran"),
        ("dtype", "int8", "dtype"),
    ],
)
def test_a_hostile_trace_json_is_one_line(tmp_path: Path, key: str, value: object, message: str) -> None:
    finish(written(tmp_path / "trace"))
    trace_json = tmp_path / "trace" / "trace.json"
    trace_json.write_text(json.dumps(json.loads(trace_json.read_text()) | {key: value}))
    with pytest.raises(SubjectError, match=message) as caught:
        _ = TraceReader(tmp_path / "trace").result
    assert "\n" not in str(caught.value)


def test_a_damaged_scope_is_named(tmp_path: Path) -> None:
    finish(written(tmp_path / "trace"))
    (tmp_path / "trace" / "decoder.1.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(SubjectError, match=r"decoder\.1\.safetensors.*cannot be read"):
        TraceReader(tmp_path / "trace").tensor("decoder.1")


def test_scope_of() -> None:
    names = ["embeddings", "decoder.12", "decoder.12.mlp.router_scores", "final_norm", "logits"]
    assert [scope_of(name) for name in names] == ["embeddings", "decoder.12", "decoder.12", "head", "head"]
