from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ci.subjects.base import GradientRequest
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.hugging_face.gradients import compute_loss, merge_shards
from tests.ci.subjects.tiny import relative_error, save_model

if TYPE_CHECKING:
    from pathlib import Path


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(save_model("llama", tmp_path / "llama")).eval()
    ids = torch.tensor([[5, 9, 200, 3]])
    answer = model(input_ids=ids, labels=ids)
    torch.testing.assert_close(compute_loss(answer.logits, ids), answer.loss)


def test_gradients_have_the_names_on_disk(tmp_path: Path) -> None:
    source, inputs = save_model("mixtral", tmp_path / "mixtral"), tmp_path / "inputs.safetensors"
    save_file({"input_ids": torch.tensor([[5, 9, 200, 3, 7, 11]])}, inputs)
    weights = load_file(source / "model.safetensors")
    with HuggingFace() as hugging_face:
        for output in ("first", "second"):
            request = GradientRequest(str(source), str(inputs), str(tmp_path / output), "mixtral")
            assert hugging_face.gradients(request).loss > 0
    first, second = (load_file(tmp_path / output / "model.safetensors") for output in ("first", "second"))
    assert first.keys() == weights.keys()
    assert {key: tensor.shape for key, tensor in first.items()} == {key: w.shape for key, w in weights.items()}
    assert relative_error(second["lm_head.weight"], first["lm_head.weight"]) == 0, "the overwritten model is not reused"


def test_shards_become_one_file(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({f"part {number}": torch.full((2,), float(number))}, tmp_path / f"model-{number}.safetensors")
    merge_shards(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    assert load_file(tmp_path / "model.safetensors").keys() == {"part 1", "part 2"}
