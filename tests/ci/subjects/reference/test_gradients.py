"""The reference's gradients, as the protocol writes them, against transformers' own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ci.errors import UnsupportedError
from ci.subjects.base import GradientRequest
from ci.subjects.reference.gradients import run_gradients
from tests.ci.subjects.reference.test_convert import tensors

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ci.subjects.reference.conftest import ModelFactory


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("llama-biases", {}),
        ("llama-tied", {"attention": "blockwise"}),
        ("mixtral-window", {"attention": "sdpa", "moe": "looped"}),
        ("mixtral-window", {"moe": "dropless"}),
    ],
)
def test_gradients_equal_transformers(
    factory: ModelFactory, tmp_path: Path, name: str, variant: dict[str, str]
) -> None:
    """No path is detached, no tied gradient lost: each parameter by its Hugging Face name."""
    ids = torch.randint(0, 331, (1, 60), generator=torch.Generator().manual_seed(1))
    theirs = hugging_face_gradients(factory.source(name), ids, tmp_path / "gradients")
    ours = reference_gradients(factory.converted(name), ids, variant, tmp_path)
    assert ours.keys() == theirs.keys()
    by_tensor = {key: float((ours[key] - theirs[key]).norm() / theirs[key].norm()) for key in theirs}
    assert max(by_tensor.values()) <= 3e-6, by_tensor


def hugging_face_gradients(source: Path, ids: torch.Tensor, output: Path) -> dict[str, torch.Tensor]:
    """By the names on disk: transformers fuses the experts in memory, their gradients go out as weights do."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    model(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    model.save_pretrained(output)
    return tensors(output)


def reference_gradients(
    converted: Path, ids: torch.Tensor, variant: dict[str, str], directory: Path
) -> dict[str, torch.Tensor]:
    save_file({"input_ids": ids}, directory / "inputs.safetensors")
    paths = (str(converted), str(directory / "inputs.safetensors"), str(directory / "ours"))
    run_gradients(GradientRequest(*paths, checkpoint_format="any", variant=variant))
    return load_file(directory / "ours" / "model.safetensors")


def test_a_variant_that_the_model_lacks_is_refused(factory: ModelFactory, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no variant moe=looped"):
        reference_gradients(
            factory.converted("llama"), torch.ones(1, 4, dtype=torch.int64), {"moe": "looped"}, tmp_path
        )
