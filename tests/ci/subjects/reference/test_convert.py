"""The table of parameters: names, layout and orientation of Fast-LLM's parameters, in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from ci.subjects.reference.convert import list_parameters
from ci.subjects.reference.weight_names import find_weight_names
from tests.ci.subjects.reference.cases import CASES, format_of
from tests.ci.subjects.reference.test_config_json import read

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from tests.ci.subjects.reference.conftest import ModelFactory


def tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a directory."""
    return {name: t for file in directory.glob("*.safetensors") for name, t in load_file(file).items()}


def test_a_dense_layer_is_laid_out_as_fast_llm_does(factory: ModelFactory) -> None:
    theirs, ours = tensors(factory.source("llama-biases")), tensors(factory.converted("llama-biases"))
    attention, mlp, block = "model.layers.1.self_attn", "model.layers.1.mlp", "decoder.1"
    stacked = {
        "mixer.query": [f"{attention}.q_proj"],
        "mixer.key_value": [f"{attention}.k_proj", f"{attention}.v_proj"],
        "mixer.dense": [f"{attention}.o_proj"],
        "mlp.layer_1": [f"{mlp}.gate_proj", f"{mlp}.up_proj"],
    }
    for name, parts in stacked.items():
        for kind in ("weight", "bias"):
            expected = torch.cat([theirs[f"{part}.{kind}"] for part in parts])
            assert ours[f"{block}.{name}.{kind}/weights"].equal(expected), name
    assert ours[f"{block}.mlp.layer_2.weight/weights"].equal(theirs[f"{mlp}.down_proj.weight"].t())
    assert ours[f"{block}.mlp.layer_2.bias/weights"].equal(theirs[f"{mlp}.down_proj.bias"])
    assert ours[f"{block}.norm_1.weight/weights"].equal(theirs["model.layers.1.input_layernorm.weight"])
    assert ours[f"{block}.norm_2.weight/weights"].equal(theirs["model.layers.1.post_attention_layernorm.weight"])


def test_experts_follow_one_another(factory: ModelFactory) -> None:
    theirs, ours = tensors(factory.source("mixtral-window")), tensors(factory.converted("mixtral-window"))
    experts = [f"model.layers.2.block_sparse_moe.experts.{expert}" for expert in range(5)]
    first = torch.cat([theirs[f"{expert}.{layer}.weight"] for expert in experts for layer in ("w1", "w3")])
    second = torch.cat([theirs[f"{expert}.w2.weight"].t() for expert in experts])
    assert ours["decoder.2.mlp.layer_1.weight/weights"].equal(first)
    assert ours["decoder.2.mlp.layer_2.weight/weights"].equal(second)
    assert ours["decoder.2.mlp.router.weight/weights"].equal(theirs["model.layers.2.block_sparse_moe.gate.weight"])


@pytest.mark.parametrize("case", CASES)
def test_the_table_names_exactly_what_is_on_disk(factory: ModelFactory, case: str) -> None:
    stored = {name: tuple(t.shape) for name, t in tensors(factory.source(case)).items()}
    table = [
        part
        for parameter in list_parameters(read(case), find_weight_names(format_of(case)))
        for part in parameter.parts
    ]
    assert {part.name: part.shape for part in table} == stored
    assert len(table) == len(stored)


def test_tied_embeddings_have_no_head(factory: ModelFactory) -> None:
    assert "head.output_weights/weights" not in tensors(factory.converted("llama-tied"))
    assert "head.output_weights/weights" in tensors(factory.converted("llama"))
