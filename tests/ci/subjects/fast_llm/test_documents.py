"""Which tokens of a document count, and how images stand in it; a real step where there is a Fast-LLM."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from ci.equivalence.image_inputs import ImageRequirements
from ci.equivalence.training_reference import draw_documents
from ci.subjects.base import ConvertRequest, Differentiable, GradientRequest
from ci.subjects.fast_llm.documents import list_masked_spans
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.images import split_images, take_images
from ci.subjects.training import Trainable, TrainRequest
from tests.ci.subjects.tiny import relative_error
from tests.standin.models import build
from tests.standin.recipes import RECIPES

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import Subject

TANH = {"projector_hidden_act": "gelu_pytorch_tanh"}
"""The exact gelu of the published models is another function in Fast-LLM."""


def test_spans_begin_at_the_predicted_token() -> None:
    assert list_masked_spans([1, 0, 1, 0, 0]) == [(2, 3), (4, 5), (5, 6)]
    assert list_masked_spans([1, 1]) == []


def test_a_tower_is_trained_as_hugging_face_trains_it(fast_llm: Subject, tmp_path: Path) -> None:
    """Gradients of one document with two images, and those of a step over documents with images and a mask."""
    assert isinstance(fast_llm, Differentiable)
    assert isinstance(fast_llm, Trainable)
    recipe = RECIPES["stand-in/llava"]
    source = build(replace(recipe, changes={**recipe.changes, **TANH}, files=1), tmp_path / "model")
    converted = tmp_path / "converted"
    fast_llm.convert(ConvertRequest(str(source), str(converted), "llava", "multimodal"))
    drawn = draw_documents(331, 0, ImageRequirements(token=10, patch=4, channels=3))
    save_file(drawn, tmp_path / "documents")
    images = split_images(take_images(dict(drawn)), len(drawn["input_ids"]))[0]
    assert images is not None
    tensors = {"input_ids": drawn["input_ids"][:1], **images.to_tensors()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "inputs")
    with HuggingFace() as side:
        for name, one, path in (("theirs", fast_llm, converted), ("right", side, source)):
            one.gradients(
                GradientRequest(str(path), str(tmp_path / "inputs"), str(tmp_path / name), "llava", "multimodal")
            )
            steps = str(tmp_path / f"{name}-steps")
            one.train(TrainRequest(str(path), str(tmp_path / "documents"), steps, "llava", "multimodal"))
    for place in ("{}", "{}-steps/step-1/gradients"):
        theirs, right = (load_file(tmp_path / place.format(n) / "model.safetensors") for n in ("theirs", "right"))
        assert theirs.keys() == right.keys()
        assert max(relative_error(theirs[name], right[name]) for name in right) < 1e-4
    assert any(bool(gradient.any()) for name, gradient in theirs.items() if "vision_tower" in name)
