"""Fast-LLM's gradients against transformers' own, where there is a Fast-LLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ci.subjects.base import ConvertRequest, Differentiable, GradientRequest
from ci.subjects.fast_llm.gradients import count_gradient_buffers, make_trace_request
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.gradients import run_gradients
from ci.subjects.reference.subject import ReferenceSubject
from tests.ci.subjects.tiny import relative_error, save_inputs, save_model
from tests.standin.own_models import describe_stochastic, write_own_model

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import Subject


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_every_gradient_is_as_right_as_hugging_face(name: str, fast_llm: Subject, tmp_path: Path) -> None:
    assert isinstance(fast_llm, Differentiable)
    source, converted = save_model(name, tmp_path / name), tmp_path / "converted"
    fast_llm.convert(ConvertRequest(str(source), str(converted), name))
    inputs = tmp_path / "inputs.safetensors"
    save_file({"input_ids": torch.randint(0, 211, (1, 24), generator=torch.Generator().manual_seed(1))}, inputs)
    theirs = fast_llm.gradients(GradientRequest(str(converted), str(inputs), str(tmp_path / "theirs"), name))
    with HuggingFace() as hugging_face:
        right = hugging_face.gradients(GradientRequest(str(source), str(inputs), str(tmp_path / "right"), name))
    assert theirs.loss == pytest.approx(right.loss, rel=1e-5)
    actual, expected = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "right"))
    assert actual.keys() == expected.keys()
    assert max(relative_error(actual[key], expected[key]) for key in expected) < 1e-4


@pytest.mark.parametrize("mixer", ["sliding_window", "gdn", "kda"])
def test_the_mixer_of_the_variant_is_differentiated(mixer: str, fast_llm: Subject, tmp_path: Path) -> None:
    """Training draws the mixer at random: here it is always the one that was asked for, and the others get nothing."""
    assert isinstance(fast_llm, Differentiable)
    source, converted = write_own_model(describe_stochastic("attention"), tmp_path / "hf"), tmp_path / "converted"
    ReferenceSubject().convert(ConvertRequest(str(source), str(converted), "apriel2_text"))
    save_inputs(tmp_path / "inputs.safetensors", padding=(0,), length=60)
    paths = str(converted), str(tmp_path / "inputs.safetensors")
    variant = {"mixer": mixer}
    theirs = fast_llm.gradients(GradientRequest(*paths, str(tmp_path / "theirs"), "apriel2_text", variant=variant))
    right = run_gradients(
        GradientRequest(*paths, str(tmp_path / "right"), "apriel2_text", dtype="float64", variant=variant)
    )
    assert theirs.loss == pytest.approx(right.loss, rel=1e-5)
    actual, expected = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "right"))
    assert max(relative_error(actual[key], expected[key]) for key in expected) < 1e-4
    assert not any(bool(actual[key].any()) for key in actual.keys() - expected.keys())


def test_the_variant_is_that_of_the_request() -> None:
    request = GradientRequest("checkpoint", "inputs", "output", "llama", dtype="bfloat16", variant={"moe": "looped"})
    made = make_trace_request(request)
    assert (made.checkpoint, made.dtype, made.device, made.variant) == (
        "checkpoint",
        "bfloat16",
        "cpu",
        {"moe": "looped"},
    )


@pytest.mark.parametrize(("tied", "stages"), [(False, 6), (True, 5)])
def test_two_of_the_stages_share_a_gradient_buffer(tied: bool, stages: int) -> None:
    decoder = SimpleNamespace(num_blocks=4)
    config = SimpleNamespace(base_model=SimpleNamespace(decoder=decoder, tied_embedding_weight=tied))
    assert count_gradient_buffers(config) == stages - 1


def test_a_frozen_parameter_has_a_gradient_of_zeros(fast_llm: Subject, tmp_path: Path) -> None:
    """Gemma 4's layer scalars are frozen; here it is the MLP of a Llama."""
    assert isinstance(fast_llm, Differentiable)
    source, converted = save_model("llama", tmp_path / "llama"), tmp_path / "converted"
    fast_llm.convert(ConvertRequest(str(source), str(converted), "llama"))
    metadata = yaml.safe_load((converted / "metadata.yaml").read_text())
    metadata["config"]["base_model"]["decoder"]["block"]["mlp"]["lr_scale"] = 0.0
    (converted / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    save_inputs(tmp_path / "inputs.safetensors", padding=(0,))
    inputs = str(tmp_path / "inputs.safetensors")
    fast_llm.gradients(GradientRequest(str(converted), inputs, str(tmp_path / "theirs"), "llama"))
    gradients = load_file(tmp_path / "theirs" / "model.safetensors")
    frozen = {name for name, gradient in gradients.items() if not bool(gradient.any())}
    assert frozen == {name for name in gradients if ".mlp." in name}
