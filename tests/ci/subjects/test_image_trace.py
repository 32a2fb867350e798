"""Patches at the tokens that stand for them: order, pieces, what is left out, what is fed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ci.subjects.forward import Inputs, TeacherForcing, TraceRecorder
from ci.subjects.image_trace import ImageRecorder
from ci.subjects.images import Images
from ci.subjects.trace_files import TraceReader, TraceWriter
from ci.subjects.trace_rows import BatchTraceWriter
from ci.tensor_names import PATCHES, PROJECTOR, VISION_NORM

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = 7
IDS = torch.tensor([[1, TOKEN, TOKEN, 2], [TOKEN, 3, TOKEN, 4]])
IMAGES = Images(torch.zeros(2, 3, 4, 8), torch.tensor([[4, 8], [4, 8]]), torch.tensor([0, 1]))
PLACES = IDS == TOKEN
FEATURES = torch.arange(1.0, 9.0).view(4, 2)
EMBEDDINGS = torch.full((2, 4, 2), 5.0)


def start(path: Path, images: Images | None = IMAGES) -> TraceRecorder:
    return TraceRecorder(TraceWriter(path), Inputs(IDS, images=images), torch.float32)


def read(path: Path) -> TraceReader:
    (path / "trace.json").touch()
    return TraceReader(path)


def make(recorder: TraceRecorder, **rest: object) -> ImageRecorder:
    made = ImageRecorder.of_inputs(recorder, TOKEN, **rest)  # type: ignore[arg-type]
    assert made is not None
    return made


@pytest.mark.parametrize("cuts", [(4,), (2, 2), (1, 3)])
def test_patches_stand_at_image_tokens_in_order_however_often_the_tower_runs(
    tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    images = make(recorder := start(tmp_path / "trace"))
    for piece in FEATURES.split_with_sizes(list(cuts)):
        images.record(PATCHES, piece)
        assert images.follow(VISION_NORM, piece * 2) is not piece
        images.follow(PROJECTOR, piece[:, None])
    images.finish(EMBEDDINGS.flatten(0, 1))
    assert recorder.written == [PATCHES, VISION_NORM, PROJECTOR, "image_embeddings"]
    trace = read(tmp_path / "trace")
    assert trace.tensor(PATCHES).tolist() == [[[0, 0], [1, 2], [3, 4], [0, 0]], [[5, 6], [0, 0], [7, 8], [0, 0]]]
    assert torch.equal(trace.tensor(VISION_NORM)[PLACES], FEATURES * 2)
    assert trace.tensor(PROJECTOR).shape == (2, 4, 1, 2)
    assert torch.equal(trace.tensor("image_embeddings"), EMBEDDINGS * PLACES[..., None])


@pytest.mark.parametrize("count", [3, 5, 16])
def test_what_has_not_one_patch_a_token_is_not_captured(tmp_path: Path, count: int) -> None:
    images = make(recorder := start(tmp_path / "trace"))
    images.record(PATCHES, FEATURES)
    images.follow(VISION_NORM, torch.ones(count, 2))
    images.follow(PROJECTOR, FEATURES)
    images.finish(EMBEDDINGS)
    assert recorder.written == [PROJECTOR, "image_embeddings"], "a scope without its last tensor is no scope"


def test_without_all_operations_the_last_one_of_each_scope_is_kept(tmp_path: Path) -> None:
    images = make(recorder := start(tmp_path / "trace"), capture_all=False)
    images.record(PATCHES, FEATURES)
    images.follow(VISION_NORM, FEATURES)
    images.finish(EMBEDDINGS)
    assert recorder.written == [VISION_NORM, "image_embeddings"]


def test_text_and_models_of_text_need_no_recorder(tmp_path: Path) -> None:
    assert ImageRecorder.of_inputs(start(tmp_path / "text", images=None), TOKEN) is None
    assert ImageRecorder.of_inputs(start(tmp_path / "model"), None) is None


def test_what_follows_a_scope_is_that_of_the_other_trace_piece_by_piece(tmp_path: Path) -> None:
    other = make(start(tmp_path / "other"))
    other.follow(VISION_NORM, FEATURES * 100)
    other.finish(EMBEDDINGS)
    feed = TeacherForcing(read(tmp_path / "other"), torch.float32, "cpu")
    images = make(start(tmp_path / "trace"), feed=feed)
    assert torch.equal(images.follow(VISION_NORM, FEATURES[:1]), FEATURES[:1] * 100)
    assert torch.equal(images.follow(VISION_NORM, FEATURES[1:]), FEATURES[1:] * 100)
    assert torch.equal(images.force(VISION_NORM, FEATURES[1:]), FEATURES[1:] * 100)
    assert torch.equal(images.follow(PROJECTOR, FEATURES), FEATURES), "the other trace has no such scope"
    images.finish(EMBEDDINGS)
    assert torch.equal(read(tmp_path / "trace").tensor(VISION_NORM)[PLACES], FEATURES), "recorded as it was"


def test_rows_one_by_one_make_the_same_trace_where_the_first_has_no_image(tmp_path: Path) -> None:
    writer = BatchTraceWriter(tmp_path / "trace", batch=2, length=4)
    inputs = Inputs(IDS.clone(), images=Images(*(part[1:] for part in (IMAGES.pixels, IMAGES.sizes, IMAGES.rows))))
    inputs.ids[0] = 1
    for row in range(2):
        alone = inputs.select_row(row)
        recorder = TraceRecorder(writer.row_writer(row, 0), alone, torch.float32)
        if (images := ImageRecorder.of_inputs(recorder, TOKEN)) is not None:
            images.follow(PROJECTOR, FEATURES[2:])
            images.finish(EMBEDDINGS[1:])
        for names in (("embeddings",), ("final_norm", "logits")):
            for name in names:
                recorder.record(name, EMBEDDINGS[row : row + 1])
            recorder.flush()
    result = writer.finish(ran={}, dtype="float32", device="cpu", seconds=0.0)
    assert result.scopes == (PROJECTOR, "image_embeddings", "embeddings", "head"), "in the order of execution"
    trace = TraceReader(tmp_path / "trace")
    assert trace.tensor(PROJECTOR).tolist() == [[[0, 0]] * 4, [[5, 6], [0, 0], [7, 8], [0, 0]]]
