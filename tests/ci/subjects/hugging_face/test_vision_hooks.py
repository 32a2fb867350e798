"""A tower that runs image by image, as apriel2's own code does; Pixtral's is in tests/ci/subjects/reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ci.subjects.forward import Inputs, TeacherForcing, TraceRecorder
from ci.subjects.hugging_face.vision_hooks import VisionHooks
from ci.subjects.hugging_face.vision_structure import find_vision_parts
from ci.subjects.image_trace import ImageRecorder
from ci.subjects.images import Images
from ci.subjects.trace_files import TraceReader, TraceWriter
from ci.tensor_names import PATCHES, PROJECTOR, VISION_NORM, vision_block_name

if TYPE_CHECKING:
    from pathlib import Path

TOKEN, HIDDEN = 7, 4
IDS = torch.tensor([[1, TOKEN, TOKEN, TOKEN, 2, TOKEN]])
IMAGES = Images(torch.zeros(2, 3, 4, 12), torch.tensor([[4, 12], [4, 4]]), torch.tensor([0, 0]))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head_dim, self.v_proj, self.o_proj = 2, nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        return self.o_proj(self.v_proj(hidden_states)), None


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixer, self.mlp, self.post_attention_layernorm = Mixer(), nn.Linear(HIDDEN, HIDDEN), nn.LayerNorm(HIDDEN)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor]:
        hidden_states = hidden_states + self.mixer(hidden_states=hidden_states)[0]
        return (hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)),)


class Tower(nn.Module):
    """Keeps the last block's output before any hook replaces it, as transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({"normalization": nn.LayerNorm(HIDDEN)})
        self.first, self.last = Block(), Block()
        self.blocks, self.adapter = nn.ModuleList([self.first, self.last]), nn.Linear(HIDDEN, 6)

    def forward(self, patches: Tensor) -> Tensor:
        hidden = self.embeddings["normalization"](patches)
        for block in self.blocks[:-1]:
            (hidden,) = block(hidden_states=hidden)
        (kept,) = self.blocks[-1].forward(hidden)
        self.blocks[-1](hidden_states=hidden)
        features: Tensor = self.adapter(kept)
        return features


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vision_encoder = Tower()

    def forward(self) -> Tensor:
        patches = torch.randn(1, 4, HIDDEN, generator=torch.Generator().manual_seed(1))
        return torch.cat([self.vision_encoder(patches[:, :3]), self.vision_encoder(patches[:, 3:])], dim=1)


def run(model: Model, path: Path, feed: TeacherForcing | None = None) -> tuple[Tensor, TraceReader]:
    recorder = TraceRecorder(TraceWriter(path), Inputs(IDS, images=IMAGES), torch.float32)
    images, parts = ImageRecorder.of_inputs(recorder, TOKEN, feed=feed), find_vision_parts(model)
    assert images is not None
    assert parts is not None
    handles: list[Any] = list(VisionHooks(parts, images, records_values=True).register())
    with torch.inference_mode():
        features = model()
    for handle in handles:
        handle.remove()
    images.finish(torch.zeros(1, 6, 6))
    (path / "trace.json").touch()
    return features, TraceReader(path)


def test_what_runs_image_by_image_is_recorded_as_one(tmp_path: Path) -> None:
    features, trace = run(model := Model(), tmp_path / "trace")
    places = IDS == TOKEN
    assert torch.equal(trace.tensor(PROJECTOR)[places], features[0])
    tower = model.vision_encoder
    patches = trace.tensor(PATCHES)[places]
    with torch.inference_mode():
        assert torch.equal(trace.tensor(VISION_NORM)[places], tower.embeddings["normalization"](patches))
        for index, block in enumerate((tower.first, tower.last)):
            name = vision_block_name(index)
            normed = trace.tensor(f"{name}.norm_1")[places]
            assert trace.tensor(f"{name}.mixer.value").shape == (1, 6, 2, 2)
            torch.testing.assert_close(trace.tensor(f"{name}.mixer.context")[places], block.mixer.v_proj(normed))
            mixed = trace.tensor(f"{name}.mixer_residual")[places]
            torch.testing.assert_close(mixed, normed + trace.tensor(f"{name}.mixer")[places])
            torch.testing.assert_close(trace.tensor(name)[places], mixed + trace.tensor(f"{name}.mlp")[places])


def test_each_part_reads_what_it_is_fed(tmp_path: Path) -> None:
    run(other := Model(), tmp_path / "other")
    feed = TeacherForcing(TraceReader(tmp_path / "other"), torch.float32, "cpu")
    wrong = Model()
    with torch.no_grad():
        wrong.vision_encoder.first.mlp.bias.add_(1.0)
    _, trace = run(wrong, tmp_path / "trace", feed)
    expected = TraceReader(tmp_path / "other")
    right = {
        name: torch.allclose(trace.tensor(name), expected.tensor(name))
        for name in (VISION_NORM, vision_block_name(0), vision_block_name(1), PROJECTOR)
    }
    assert list(right.values()) == [True, False, True, True], right
    assert other is not wrong
