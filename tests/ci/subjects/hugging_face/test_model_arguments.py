"""A model gets what its forward pass knows, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ci.subjects.hugging_face.model_arguments import collect_arguments, find_image_token
from ci.subjects.images import Images

IMAGES = Images(torch.ones(1, 3, 4, 4), torch.tensor([[4, 4]]), torch.tensor([0]))


class Plain(nn.Module):
    def forward(self, input_ids: Any = None, pixel_values: Any = None) -> None:
        """Take images."""


class JoinsStates(nn.Module):
    def forward(self, input_ids: Any = None, output_vision_hidden_states: bool = False) -> None:
        """Join the tower's states, as apriel2 does."""


def test_text_needs_nothing_more() -> None:
    assert collect_arguments(Plain(), None, torch.float32) == {}
    assert collect_arguments(JoinsStates(), None, torch.float32) == {}


def test_images_come_in_the_models_dtype() -> None:
    arguments = collect_arguments(Plain(), IMAGES, torch.float64)
    assert list(arguments) == ["pixel_values", "image_sizes"]
    assert arguments["pixel_values"].dtype == torch.float64


def test_a_tower_whose_states_are_joined_is_asked_for_them() -> None:
    arguments = collect_arguments(JoinsStates(), IMAGES, torch.float32)
    assert arguments["output_vision_hidden_states"] is arguments["output_hidden_states"] is True


def test_every_prediction_head_is_asked_for() -> None:
    model = Plain()
    model.model = nn.Module()
    model.model.mtp_heads = nn.ModuleList([nn.Linear(2, 2)])
    assert collect_arguments(model, None, torch.float32) == {"return_all_prediction_heads": True}


def test_either_name_of_the_image_token_is_read() -> None:
    assert find_image_token(SimpleNamespace(image_token_id=0)) == 0
    assert find_image_token(SimpleNamespace(image_token_index=7, image_token_id=None)) == 7
    assert find_image_token(SimpleNamespace()) is None
