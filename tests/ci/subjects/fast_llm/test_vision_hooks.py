"""Captures on an encoder of Fast-LLM's form, whose pack is padded; the real one is in test_subject.py."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ci.subjects.fast_llm.vision_hooks import VisionHooks, find_image_token, find_vision_encoder
from ci.subjects.forward import Inputs, TeacherForcing, TraceRecorder
from ci.subjects.image_trace import ImageRecorder
from ci.subjects.images import Images
from ci.subjects.trace_files import TraceReader, TraceWriter
from ci.tensor_names import BLOCK_OPERATIONS, PATCHES, PROJECTOR, VISION_NORM, vision_block_name

if TYPE_CHECKING:
    from pathlib import Path

TOKEN, PADDED = 7, 5
IDS = torch.tensor([[TOKEN, 1, TOKEN], [2, TOKEN, 3]])
IMAGES = Images(torch.zeros(2, 3, 4, 8), torch.tensor([[4, 8], [4, 4]]), torch.tensor([0, 1]))
OPERATIONS = ("norm_1", "mixer.query", "mixer.key", "mixer.value", "mixer.context", "mixer", "mixer_residual", "norm_2")


class Block:
    """Hands out hidden states as Fast-LLM's blocks do."""

    def __init__(self, index: int) -> None:
        self.module_name, self.mixer, self.mlp = f"vision_encoder.encoder.{index}", SimpleNamespace(), SimpleNamespace()

    def forward(self, input_: Tensor, kwargs: dict[str, Any], _losses: None = None) -> Tensor:
        for name in (*OPERATIONS, "mixer_output", "mlp"):
            kwargs["hidden_states"][f"{self.module_name}.{name}"] = (None, input_ + 1)
        return input_ * 2


class Embeddings:
    module_name = "vision_encoder.embeddings"

    def __init__(self) -> None:
        self.patch_embeddings = nn.Identity()

    def forward(self, input_: Tensor, _kwargs: dict[str, Any]) -> Tensor:
        projected: Tensor = self.patch_embeddings(input_)
        return projected + 10


class Adapter:
    module_name = "vision_encoder.adapter"

    def forward(self, input_: Tensor, _kwargs: dict[str, Any]) -> Tensor:
        return input_.repeat(1, 2)


def run(path: Path, operations: frozenset[str], feed: TeacherForcing | None = None) -> tuple[Tensor, VisionHooks]:
    encoder = SimpleNamespace(embeddings=Embeddings(), encoder=[Block(0), Block(1)], adapter=Adapter())
    recorder = TraceRecorder(TraceWriter(path), Inputs(IDS, images=IMAGES), torch.float32)
    images = ImageRecorder.of_inputs(recorder, TOKEN, capture_all=bool(operations), feed=feed)
    assert images is not None
    hooks, hidden = VisionHooks(encoder, images, operations), torch.arange(10.0).view(PADDED, 2)
    kwargs: dict[str, Any] = {}
    with hooks.installed():
        for layer in (encoder.embeddings, *encoder.encoder, encoder.adapter):
            hidden = layer.forward(hidden, kwargs)
    images.finish(torch.zeros(6, 4))
    (path / "trace.json").touch()
    assert "forward" not in vars(encoder.adapter), "the layers are as before"
    return hidden, hooks


def test_every_operation_is_recorded_without_what_pads_the_pack(tmp_path: Path) -> None:
    hidden, hooks = run(tmp_path / "trace", frozenset(BLOCK_OPERATIONS))
    assert hooks.images.recorder.written == list(hooks.list_expected())
    trace, places = TraceReader(tmp_path / "trace"), IDS == TOKEN
    patches = torch.arange(6.0).view(3, 2)
    assert torch.equal(trace.tensor(PATCHES)[places], patches)
    assert torch.equal(trace.tensor(VISION_NORM)[places], patches + 10)
    assert torch.equal(trace.tensor(f"{vision_block_name(1)}.mixer.query")[places], (patches + 10) * 2 + 1)
    assert torch.equal(trace.tensor(vision_block_name(1))[places], (patches + 10) * 4)
    assert torch.equal(trace.tensor(PROJECTOR)[places], hidden[:3])
    assert len(hidden) == PADDED, "the pack is still padded for what follows"


def test_blocks_alone_are_recorded_where_no_operation_is_asked_for(tmp_path: Path) -> None:
    _, hooks = run(tmp_path / "trace", frozenset())
    assert hooks.list_patterns() == []
    assert hooks.list_expected() == ()
    written = [VISION_NORM, vision_block_name(0), vision_block_name(1), PROJECTOR, "image_embeddings"]
    assert hooks.images.recorder.written == written


def test_each_layer_reads_what_it_is_fed_and_is_recorded_before(tmp_path: Path) -> None:
    run(tmp_path / "other", frozenset())
    feed = TeacherForcing(TraceReader(tmp_path / "other"), torch.float32, "cpu")
    doubled = tmp_path / "other" / f"{VISION_NORM}.safetensors"
    save_file({name: tensor * 100 for name, tensor in load_file(doubled).items()}, doubled)
    run(tmp_path / "trace", frozenset(), feed)
    trace, places = TraceReader(tmp_path / "trace"), IDS == TOKEN
    patches = torch.arange(6.0).view(3, 2) + 10
    assert torch.equal(trace.tensor(VISION_NORM)[places], patches)
    assert torch.equal(trace.tensor(vision_block_name(0))[places], patches * 200)
    assert torch.equal(trace.tensor(vision_block_name(1))[places], patches * 4), "fed the other trace's block 0"


def test_patterns_match_the_states_of_one_block(tmp_path: Path) -> None:
    _, hooks = run(tmp_path / "trace", frozenset({"mixer", "mlp"}))
    assert [bool(re.match(hooks.list_patterns()[1], f"vision_encoder.encoder.{i}.mlp")) for i in (0, 1, 10)] == [
        *(False, True, False)
    ]


def test_a_model_of_text_has_neither_encoder_nor_token() -> None:
    assert find_vision_encoder(SimpleNamespace()) is None
    assert find_image_token(SimpleNamespace()) is None
    assert find_image_token(SimpleNamespace(_config=SimpleNamespace(image_token_index=10))) == 10
