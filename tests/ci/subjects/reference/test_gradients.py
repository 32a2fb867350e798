"""The reference's gradients, as the protocol writes them, against transformers' own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from ci.equivalence.edited_checkpoint import copy_with_config
from ci.equivalence.nested_config import choose_mixer
from ci.errors import UnsupportedError
from ci.subjects.base import GradientRequest
from ci.subjects.reference.gradients import compute_loss, run_gradients
from tests.ci.subjects.reference.cases import format_of
from tests.ci.subjects.reference.test_convert import tensors
from tests.standin.own_models import MIXERS, open_side

OWN_GRADIENTS: list[tuple[str, dict[str, str]]] = [
    ("mtp", {}),
    ("mtp-tied", {}),
    ("dream", {}),
    *(("apriel2-stochastic", {"mixer": mixer}) for mixer in MIXERS),
]

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


@pytest.mark.parametrize(("name", "variant"), OWN_GRADIENTS)
def test_gradients_equal_a_models_own_code(
    factory: ModelFactory, tmp_path: Path, name: str, variant: dict[str, str]
) -> None:
    """Of every head, and of the mixer that runs: the others of its block have none, on either side."""
    source = factory.source(name)
    if variant:
        config = json.loads((source / "config.json").read_text())
        source = copy_with_config(source, tmp_path / "chosen", choose_mixer(config, variant["mixer"]))
    ids = torch.randint(0, 331, (1, 60), generator=torch.Generator().manual_seed(1))
    save_file({"input_ids": ids}, tmp_path / "inputs.safetensors")
    sides: Any = (source, open_side().gradients, {}), (factory.converted(name), run_gradients, variant)
    losses = []
    for number, (checkpoint, compute, chosen) in enumerate(sides):
        paths = (str(checkpoint), str(tmp_path / "inputs.safetensors"), str(tmp_path / str(number)))
        losses.append(compute(GradientRequest(*paths, format_of(name), dtype="float64", variant=chosen)).loss)
    theirs, ours = (load_file(tmp_path / side / "model.safetensors") for side in ("0", "1"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-7)
    assert ours.keys() == theirs.keys()
    by_tensor = {key: float((ours[key] - theirs[key]).norm() / theirs[key].norm()) for key in theirs}
    assert max(by_tensor.values()) <= 1e-6, by_tensor
    assert bool(variant) == any(f".{variant.get('mixer')}." in key for key in ours)
    assert not any(f".mixers.{other}." in key for key in ours for other in MIXERS if other != variant.get("mixer"))


def test_every_head_counts_the_tokens_that_all_have_targets_for() -> None:
    ids = torch.tensor([[3, 1, 2, 0, 1]])
    first, second = torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()
    expected = cross_entropy(first[0, :3], ids[0, 1:4]) + cross_entropy(second[0, :3], ids[0, 2:5])
    assert compute_loss([first, second], ids).equal(expected)
    assert compute_loss([first], ids).equal(cross_entropy(first[0, :4], ids[0, 1:]))


def test_a_variant_that_the_model_lacks_is_refused(factory: ModelFactory, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no variant moe=looped"):
        reference_gradients(
            factory.converted("llama"), torch.ones(1, 4, dtype=torch.int64), {"moe": "looped"}, tmp_path
        )
