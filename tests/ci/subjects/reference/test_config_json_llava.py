"""config.json of llava: tower, projector and text, read, written back, refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.errors import UnsupportedError
from ci.subjects.reference.config import AxialRope, VisionTower
from ci.subjects.reference.config_json_llava import read_llava, write_llava
from tests.ci.subjects.reference.test_config_json import config_of, read, upstream


def test_the_published_sizes_are_read() -> None:
    config = upstream("pixtral-12b")
    architecture = read_llava(config, where="config.json")
    vision = architecture.vision
    assert isinstance(vision, VisionTower)
    block = vision.blocks[0]
    assert (vision.hidden, vision.patch, len(vision.blocks), vision.patch_size) == (1024, 16, 24, 768)
    assert (vision.projector, vision.projector_bias, architecture.image_token) == ("gelu_exact", True, 10)
    assert (block.attention.causal, block.attention.rope, block.mlp.intermediate) == (False, AxialRope(1e4), 4096)
    assert (architecture.hidden, len(architecture.blocks), architecture.vocabulary) == (5120, 40, 131072)


@pytest.mark.parametrize("case", ["llava", "llava-tanh"])
def test_it_is_written_with_and_without_the_original(case: str) -> None:
    for original in (config_of(case), {}):
        assert read_llava(write_llava(read(case), original), where="config.json") == read(case)


def test_rope_keys_of_transformers_5_are_read_and_kept() -> None:
    vision = {key: value for key, value in config_of("llava")["vision_config"].items() if key != "rope_theta"}
    config = config_of("llava", vision_config={**vision, "rope_parameters": {"rope_type": "axial", "rope_theta": 7.0}})
    architecture = read_llava(config, where="config.json")
    assert architecture.vision is not None
    assert architecture.vision.blocks[0].attention.rope == AxialRope(7.0)
    written = write_llava(architecture, config)["vision_config"]
    assert written["rope_parameters"] == {"rope_type": "axial", "rope_theta": 7.0}
    assert "rope_theta" not in written


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vision_feature_layer": -2}, "vision_feature_layer = -2"),
        ({"vision_feature_select_strategy": "default"}, "vision_feature_select_strategy"),
        ({"projector_hidden_act": "tanh"}, "projector_hidden_act"),
        ({"model_type": "llava_next"}, "model_type"),
        ({"image_grid_pinpoints": []}, "image_grid_pinpoints"),
    ],
)
def test_what_would_change_the_forward_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        read_llava(config_of("llava", **changes), where="config.json")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "clip_vision_model"}, "clip_vision_model"),
        ({"head_dim": 10}, "head_dim"),
        ({"hidden_act": "quick_gelu"}, "hidden_act"),
        ({"num_channels": 1}, "num_channels"),
        ({"window_size": 3}, "window_size"),
    ],
)
def test_another_tower_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    vision = config_of("llava")["vision_config"]
    with pytest.raises(UnsupportedError, match=named):
        read_llava(config_of("llava", vision_config={**vision, **changes}), where="config.json")


def test_what_it_cannot_express_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="needs a vision tower"):
        write_llava(read("llama"), {})
    architecture = read("llava")
    assert architecture.vision is not None
    first, second = architecture.vision.blocks
    other = replace(architecture.vision, blocks=(first, replace(second, epsilon=0.5)))
    with pytest.raises(UnsupportedError, match="this vision tower"):
        write_llava(replace(architecture, vision=other), {})
