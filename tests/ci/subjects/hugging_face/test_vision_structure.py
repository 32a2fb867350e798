"""The parts of towers that transformers has, and of one whose code travels with the model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlavaConfig, MistralConfig, PixtralVisionConfig

from ci.subjects.hugging_face.vision_structure import find_image_token, find_vision_parts, list_expected_of_images
from ci.tensor_names import PATCHES, PROJECTOR, list_block_operations, list_vision_tensors

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}


def llava(vision: Any) -> Any:
    text = MistralConfig(**SIZES, num_key_value_heads=1, vocab_size=32)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(LlavaConfig(vision_config=vision, text_config=text))


def test_pixtrals_parts_are_found_and_every_operation_is_named() -> None:
    model = llava(PixtralVisionConfig(**{**SIZES, "num_hidden_layers": 2}))
    parts = find_vision_parts(model)
    assert parts is not None
    assert [type(block.mixer).__name__ for block in parts.blocks] == ["PixtralAttention"] * 2
    assert (type(parts.norm).__name__, type(parts.projector).__name__) == ("PixtralRMSNorm", "LlavaMultiModalProjector")
    operations = list_block_operations(experts=False)
    assert list_expected_of_images(model) == list_vision_tensors([operations] * 2)


def test_a_tower_of_another_form_is_said_to_be_not_captured() -> None:
    model = llava(CLIPVisionConfig(**SIZES, image_size=32, patch_size=16, projection_dim=8))
    assert find_vision_parts(model) is None, "it has a token more than patches"
    assert list_expected_of_images(model) == (PATCHES, PROJECTOR)


def own_tower(**without: None) -> nn.Module:
    """The form of Fast-LLM's apriel2: the norm is below the embeddings, the blocks below `encoder`."""
    names = ("mixer", "mlp", "post_attention_layernorm")
    block = nn.ModuleDict({name: nn.Linear(2, 2) for name in names if name not in without})
    embeddings = nn.ModuleDict({"patch_embeddings": nn.Conv2d(3, 2, 4), "normalization": nn.LayerNorm(2)})
    encoder = nn.ModuleDict({"blocks": nn.ModuleList([block])})
    tower = nn.ModuleDict({"embeddings": embeddings, "encoder": encoder, "adapter": nn.Linear(2, 2)})
    return nn.ModuleDict({"model": nn.ModuleDict({"vision_encoder": tower})})


def test_the_parts_of_apriel2_are_found() -> None:
    parts = find_vision_parts(own_tower())
    assert parts is not None
    assert isinstance(parts.norm, nn.LayerNorm)
    assert len(parts.blocks) == 1
    assert isinstance(parts.projector, nn.Linear)
    assert find_vision_parts(own_tower(mlp=None)) is None, "a block of unknown form"
    assert find_vision_parts(nn.ModuleDict({"decoder": nn.Linear(2, 2)})) is None


@pytest.mark.parametrize(
    ("config", "token"), [({"image_token_index": 10}, 10), ({"image_token_id": 11}, 11), ({}, None)]
)
def test_the_token_of_images_has_two_names(config: dict[str, int], token: int | None) -> None:
    assert find_image_token(SimpleNamespace(**config)) == token
