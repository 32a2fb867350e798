"""Hugging Face's steps: the token mean over documents, its parts, and clipping to the very limit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ci.equivalence.image_inputs import ImageRequirements
from ci.equivalence.training_reference import draw_documents
from ci.subjects.base import GradientRequest
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.hugging_face.training import clip_gradients, compute_balancing_loss, compute_norm, make_adamw
from ci.subjects.images import split_images, take_images
from ci.subjects.training import OptimizerSettings, TrainRequest
from tests.ci.subjects.tiny import relative_error, save_model
from tests.standin.models import build
from tests.standin.recipes import RECIPES

if TYPE_CHECKING:
    from pathlib import Path


def test_gradients_are_the_token_means_and_the_sum_of_their_parts(tmp_path: Path) -> None:
    source = save_model("qwen2", tmp_path / "model", tie_word_embeddings=True)
    ids = torch.randint(0, 211, (2, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[0, :5] = 0
    inputs = {"input_ids": ids, "lengths": torch.tensor([17, 9]), "loss_mask": mask}
    save_file(inputs, tmp_path / "inputs")
    inputs_file, output = str(tmp_path / "inputs"), str(tmp_path / "out")
    request = TrainRequest(str(source), inputs_file, output, "qwen2", layout="dp2")
    result = HuggingFace().train_in_parts(request)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    losses = [
        torch.nn.functional.cross_entropy(model(ids[i : i + 1, :n]).logits[0, :-1], ids[i, 1:n], reduction="none")
        for i, n in enumerate((17, 9))
    ]
    loss = (losses[0][5:].sum() + losses[1].sum()) / 19
    torch.autograd.backward(loss)
    assert result.losses[0] == pytest.approx(loss.item(), rel=1e-6)
    assert result.gradient_norms[0] == pytest.approx(compute_norm(model), rel=1e-5)
    whole = load_file(tmp_path / "out" / "step-1" / "gradients" / "model.safetensors")
    parts = tmp_path / "out" / "parts"
    documents = [load_file(parts / "document" / f"{i}" / "model.safetensors") for i in range(2)]
    uses = [load_file(parts / use / "model.safetensors") for use in ("lookup", "head")]
    name = "model.embed_tokens.weight"
    assert torch.allclose(whole[name], model.get_input_embeddings().weight.grad, atol=1e-6)
    assert torch.allclose(whole[name], documents[0][name] + documents[1][name], atol=1e-6)
    assert torch.allclose(whole[name], uses[0][name] + uses[1][name], atol=1e-6)
    assert set(load_file(parts / "tokens.safetensors")) == {"loss.0", "loss.1", "counted.0", "counted.1"}


def test_only_matrices_are_decayed_and_clipping_has_no_epsilon() -> None:
    model = torch.nn.Linear(3, 2)
    groups = make_adamw(model, OptimizerSettings(weight_decay=0.3)).param_groups
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [(0.3, [2]), (0.0, [1])]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    clip_gradients(model, compute_norm(model), 1e-3)
    assert compute_norm(model) == pytest.approx(1e-3, rel=1e-6)


def test_the_balancing_loss_of_equal_experts_is_the_number_chosen() -> None:
    logits = torch.eye(4).repeat(5, 1) * 1e-6
    assert compute_balancing_loss(logits, 2).item() == pytest.approx(2.0, rel=1e-5)
    assert compute_balancing_loss(torch.tensor([[9.0, 0, 0, 0]]), 1).item() > 3.9


def test_a_document_with_images_trains_the_tower_and_predicts_no_patch(tmp_path: Path) -> None:
    """With nothing else masked a step has the gradients of the same tokens and images."""
    source = build(replace(RECIPES["stand-in/llava"], files=1), tmp_path / "model")
    drawn = draw_documents(331, 0, ImageRequirements(token=10, patch=4, channels=3))
    ids, images = drawn["input_ids"][:1], split_images(take_images(drawn), 12)[0]
    assert images is not None
    mask = (ids[:, 1:] != 10).long()
    tensors = {"input_ids": ids, **{name: tensor.contiguous() for name, tensor in images.to_tensors().items()}}
    save_file({**tensors, "lengths": torch.tensor([ids.shape[1]]), "loss_mask": mask}, tmp_path / "documents")
    save_file(tensors, tmp_path / "inputs")
    with HuggingFace() as side:
        trained = side.train(TrainRequest(str(source), str(tmp_path / "documents"), str(tmp_path / "step"), "llava"))
        right = side.gradients(
            GradientRequest(str(source), str(tmp_path / "inputs"), str(tmp_path / "gradients"), "llava")
        )
    assert trained.losses[0] == pytest.approx(right.loss, rel=1e-6)
    step = load_file(tmp_path / "step" / "step-1" / "gradients" / "model.safetensors")
    expected = load_file(tmp_path / "gradients" / "model.safetensors")
    assert step.keys() == expected.keys()
    assert all(relative_error(step[name], expected[name]) < 1e-5 for name in expected)
    assert any(bool(gradient.any()) for name, gradient in step.items() if "vision_tower" in name)
