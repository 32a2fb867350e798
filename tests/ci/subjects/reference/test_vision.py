"""Patches, their places in a grid, and their features among the tokens; a tower against transformers' own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForImageTextToText

from ci.errors import RequestError
from ci.subjects.forward import read_inputs
from ci.subjects.hugging_face.float64_mode import Float64Mode
from ci.subjects.images import Images
from ci.subjects.reference.directories import read_fast_llm
from ci.subjects.reference.model import Context
from ci.subjects.reference.trace import load_model
from ci.subjects.reference.vision import cut_patches, locate_patches, place_features

if TYPE_CHECKING:
    from tests.ci.subjects.reference.conftest import ModelFactory

PIXELS = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IMAGES = Images(PIXELS, torch.tensor([[4, 12], [8, 4]]), torch.tensor([0, 0]))


def test_patches_times_a_matrix_are_a_convolution() -> None:
    weight = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    convolved = torch.nn.functional.conv2d(PIXELS, weight, stride=4)
    expected = torch.cat([convolved[0, :, :1].flatten(1).T, convolved[1, :, :, :1].flatten(1).T])
    torch.testing.assert_close(cut_patches(IMAGES, 4) @ weight.flatten(1).T, expected)


def test_patches_are_counted_line_by_line() -> None:
    positions, numbers = locate_patches(IMAGES, 4)
    assert positions[0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 0], [1, 0]]
    assert numbers[0].tolist() == [0, 0, 0, 1, 1]


def test_features_take_the_places_of_image_tokens_in_order() -> None:
    embeddings, features = torch.zeros(2, 3, 2), torch.arange(1.0, 7.0).view(3, 2)
    ids = torch.tensor([[7, 1, 7], [1, 1, 7]])
    placed = place_features(embeddings, ids, 7, features)
    assert placed.tolist() == [[[1, 2], [0, 0], [3, 4]], [[0, 0], [0, 0], [5, 6]]]
    with pytest.raises(RequestError, match="3 image tokens 7, but 2 patches"):
        place_features(embeddings, ids, 7, features[:2])


@pytest.mark.parametrize("case", ["llava", "llava-tanh"])
@pytest.mark.parametrize("attention", ["eager", "sdpa", "blockwise"])
def test_the_features_equal_transformers_in_float64(factory: ModelFactory, case: str, attention: str) -> None:
    """Patches, two-dimensional RoPE, a mask for each image, the projector: only rotary tables are in float32."""
    images = read_inputs(factory.inputs_of(case)).images
    assert images is not None
    model = load_model(read_fast_llm(factory.converted(case)), torch.float64, "cpu")
    context = Context(torch.zeros(1, 1), attention=attention)
    with torch.inference_mode():
        ours = model.run_vision(images, context)
    with Float64Mode(), torch.inference_mode():
        theirs = AutoModelForImageTextToText.from_pretrained(factory.source(case), dtype=torch.float64)
        arguments = images.to_arguments(torch.float64)
        expected = torch.cat([*theirs.get_image_features(**arguments).pooler_output])
    assert context.ran["attention"] == attention
    assert float((ours - expected).norm() / expected.norm()) < 1e-7


def test_a_model_without_a_tower_refuses_images(factory: ModelFactory) -> None:
    model = load_model(read_fast_llm(factory.converted("llama")), torch.float32, "cpu")
    with pytest.raises(RequestError, match="no vision tower"):
        model.run_vision(IMAGES, Context(torch.zeros(1, 1)))
