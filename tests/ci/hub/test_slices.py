"""Slices: the first rows of the vocabulary and the first experts, in the config, in tensors, and in real models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import NotTruncatableError, RequestError
from ci.hub.fetch import fetch
from ci.hub.header import TensorInfo, count_tensor_bytes
from ci.hub.manifest import read_manifest
from ci.hub.model_config import parse_config
from ci.hub.slices import (
    Slice,
    list_slice_edits,
    make_slice_rules,
    parse_slice,
    slice_generation_config,
)
from ci.hub.truncation import truncate_config
from tests.ci.hub import tiny_models
from tests.ci.hub.samples import CONFIG, MODEL, REQUEST, make_repository, model_shapes, stored_tensors, upstream_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer

BOTH = Slice(vocab=16, experts=2)
BASE = {"model_type": "x", "num_hidden_layers": 2, "vocab_size": 32, "num_local_experts": 8, "num_experts_per_tok": 4}


def sliced(config: dict[str, Any], part: Slice = BOTH) -> dict[str, Any]:
    parsed = parse_config(json.dumps(config), what="config.json")
    result: dict[str, Any] = json.loads(truncate_config(parsed, 2, list_slice_edits(parsed, part)))
    return result


def cut(name: str, *shape: int, in_layer: bool = True, part: Slice = BOTH) -> tuple[int, ...] | None:
    size = count_tensor_bytes("BF16", shape)
    assert size is not None
    rules = make_slice_rules(parse_config(json.dumps(BASE), what="c"), part)
    tensor = rules.cut(name, TensorInfo(name, "BF16", shape, 100, 100 + size), in_layer=in_layer)
    assert tensor is None or tensor.size == count_tensor_bytes("BF16", tensor.shape)
    return tensor.shape if tensor else None


@pytest.mark.parametrize("part", [Slice(4096, 4), Slice(vocab=4096), Slice(experts=4)])
def test_words_and_back(part: Slice) -> None:
    assert parse_slice(str(part)) == part


@pytest.mark.parametrize(
    "text", ["", "vocab", "vocab=0", "vocab=-1", "vocab=1e3", "vocab=2,vocab=3", "rows=2", "vocab=10000000000"]
)
def test_other_words_are_one_line(text: str) -> None:
    with pytest.raises(RequestError, match="expected vocab=V, experts=E or both") as refused:
        parse_slice(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "shape", "kept"),
    [
        ("model.embed_tokens.weight", (32, 8), (16, 8)),
        ("transformer.wte.weight", (32, 8), (16, 8)),
        ("lm_head.weight", (34, 8), (16, 8)),
        ("lm_head.bias", (32,), (16,)),
        ("final_logits_bias", (1, 32), (1, 16)),
        ("transformer.wpe.weight", (32, 8), (32, 8)),
        ("model.norm.weight", (8,), (8,)),
        ("vision_tower.embeddings.weight", (32, 8), (32, 8)),
    ],
)
def test_vocabulary(name: str, shape: tuple[int, ...], kept: tuple[int, ...]) -> None:
    assert cut(name, *shape, in_layer=False) == kept


@pytest.mark.parametrize(
    ("name", "shape", "kept"),
    [
        ("model.layers.0.mlp.experts.1.w1.weight", (8, 8), (8, 8)),
        ("model.layers.0.mlp.experts.2.w1.weight", (8, 8), None),
        ("model.layers.0.mlp.experts.expert_5.wi.weight", (8, 8), None),
        ("model.layers.0.mlp.shared_experts.up_proj.weight", (8, 16), (8, 16)),
        ("model.layers.0.mlp.experts.gate_up_proj", (8, 4, 6), (2, 4, 6)),
        ("model.layers.0.mlp.experts.down_proj_scales", (8, 4), (2, 4)),
        ("model.layers.0.ffn.experts.mlp.w1", (64, 3), (16, 3)),
        ("model.layers.0.mlp.gate.weight", (8, 5), (2, 5)),
        ("model.layers.0.mlp.gate.e_score_correction_bias", (8,), (2,)),
        ("model.layers.0.mlp.moe_statics.e_score_correction_bias", (1, 8), (1, 2)),
        ("model.layers.0.mlp.router.bias", (8,), (2,)),
        ("model.layers.0.block_sparse_moe.router.layer.weight", (8, 5), (2, 5)),
        ("model.layers.0.mlp.gate_proj.weight", (8, 5), (8, 5)),
        ("model.layers.0.self_attn.q_norm.weight", (8,), (8,)),
        ("model.layers.0.mlp.shared_expert_gate.weight", (1, 5), (1, 5)),
    ],
)
def test_experts(name: str, shape: tuple[int, ...], kept: tuple[int, ...] | None) -> None:
    assert cut(name, *shape) == kept


@pytest.mark.parametrize(
    ("name", "shape", "in_layer"),
    [
        ("model.extra_table.weight", (32, 4), False),
        ("model.output_bias_of_words", (4, 32), False),
        ("model.layers.0.mlp.expert_bank.weight", (3, 8), True),
        ("model.layers.0.mlp.router.weight", (5, 8), True),
    ],
)
def test_what_cannot_be_told_is_a_limit_of_ours(name: str, shape: tuple[int, ...], in_layer: bool) -> None:
    with pytest.raises(NotTruncatableError, match="hub-tests cannot slice this yet") as refused:
        cut(name, *shape, in_layer=in_layer)
    assert "\n" not in str(refused.value)


def test_config() -> None:
    tokens = {"bos_token_id": 1, "eos_token_id": [2, 30], "pad_token_id": 31}
    assert sliced({**BASE, **tokens}) == {
        **BASE,
        "vocab_size": 16,
        "num_local_experts": 2,
        "num_experts_per_tok": 2,
        "bos_token_id": 1,
        "eos_token_id": [2],
        "pad_token_id": None,
    }


def test_groups_of_experts_stay_whole_or_become_one() -> None:
    grouped = {**BASE, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 2}
    four, three = sliced(grouped, Slice(experts=4)), sliced(grouped, Slice(experts=3))
    assert (four["n_group"], four["topk_group"]) == (2, 2)
    assert (three["n_group"], three["topk_group"]) == (1, 1)


@pytest.mark.parametrize(
    ("config", "part", "problem"),
    [
        (BASE, Slice(vocab=33), "slice vocab = 33, the model has 32"),
        (BASE, Slice(experts=9), "slice experts = 9, the model has 8"),
        ({**BASE, "image_token_id": 20}, Slice(vocab=16), "leaves out image_token_id = 20"),
        ({**BASE, "vocab_size": 10**18}, Slice(vocab=16), "hub-tests accepts at most"),
        ({**BASE, "vocab_size": "32"}, Slice(vocab=16), "vocab_size is '32', expected a whole number"),
        ({**BASE, "num_local_experts": True}, Slice(experts=2), "expected a whole number"),
        ({**BASE, "num_local_experts": [8, 8]}, Slice(experts=2), "several counts of experts"),
        ({**BASE, "num_hash_layers": 1}, Slice(experts=2), "tables name experts by token id"),
    ],
)
def test_impossible_slices_are_one_line(config: dict[str, Any], part: Slice, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as refused:
        check(config, part)
    assert "\n" not in str(refused.value)


def check(config: dict[str, Any], part: Slice) -> None:
    parsed = parse_config(json.dumps(config), what="c")
    make_slice_rules(parsed, part)
    list_slice_edits(parsed, part)


def test_a_dense_model_has_no_experts_to_drop() -> None:
    dense = {"model_type": "x", "num_hidden_layers": 2, "vocab_size": 32}
    assert sliced(dense, Slice(experts=2)) == dense


def test_generation_config() -> None:
    values = {"eos_token_id": [2, 99], "pad_token_id": 99, "temperature": 99}
    assert slice_generation_config(values, 16) == {"eos_token_id": [2], "temperature": 99}


def test_a_slice_is_a_shorter_range_of_the_same_files(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    from dataclasses import replace
    from pathlib import Path

    config = {**CONFIG, "vocab_size": 32, "eos_token_id": 31}
    repository = make_repository(tmp_path / "sliced", tensors=model_shapes(), config=config)
    hub.add(MODEL, repository)
    whole = fetch(REQUEST, settings)
    checkpoint = fetch(replace(REQUEST, slice=Slice(vocab=8)), settings)
    assert checkpoint.path != whole.path
    upstream, stored = upstream_tensors(repository), stored_tensors(checkpoint)
    assert stored["model.embed_tokens.weight"] == upstream["model.embed_tokens.weight"][: 8 * 8 * 2]
    assert stored["lm_head.weight"] == upstream["lm_head.weight"][: 8 * 8 * 2]
    assert checkpoint.bytes_kept == whole.bytes_kept - 2 * 24 * 8 * 2
    manifest = read_manifest(Path(checkpoint.path))[0]
    assert manifest.slice == checkpoint.slice == Slice(vocab=8)
    assert manifest.notes == (
        "sliced: the first 8 of 32 rows of the vocabulary are kept",
        "sliced: ids of special tokens beyond the kept rows were dropped from eos_token_id",
    )
    written = json.loads((Path(checkpoint.path) / "config.json").read_text())
    assert (written["vocab_size"], written["eos_token_id"]) == (8, None)
    assert fetch(replace(REQUEST, slice=Slice(vocab=8)), settings).cache == "hit"


def test_chosen_layers_are_fetched_and_renumbered(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    from dataclasses import replace
    from pathlib import Path

    repository = make_repository(tmp_path / "picked")
    hub.add(MODEL, repository)
    checkpoint = fetch(replace(REQUEST, layers=(0, 3)), settings)
    upstream, stored = upstream_tensors(repository), stored_tensors(checkpoint)
    name = "model.layers.{}.self_attn.q_proj.weight"
    assert stored[name.format(1)] == upstream[name.format(3)]
    assert stored[name.format(0)] == upstream[name.format(0)]
    assert (checkpoint.layers, checkpoint.picked, Path(checkpoint.path).name.split("-")[-1]) == (2, (0, 3), "P0_3")
    assert "layers 0, 3 of 5 are kept, renumbered from 0" in checkpoint.notes
    assert fetch(replace(REQUEST, layers=(0, 1)), settings).path == fetch(REQUEST, settings).path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_a_sliced_model_loads_and_runs(model_type: str, tmp_path: Path) -> None:
    """One tensor for each expert, fused experts with biases, and a router with groups and a correction bias."""
    import torch

    tiny_models.make_model(model_type, tmp_path / "whole")
    layers = (0, 3) if model_type == "deepseek_v3" else 2
    tiny_models.truncate(tmp_path / "whole", tmp_path / "cut", layers, Slice(vocab=100, experts=3))
    model, problems = tiny_models.load(model_type, tmp_path / "cut")
    assert not problems
    assert model.get_input_embeddings().weight.shape[0] == 100
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[0, 7, 99]])).logits
    assert logits.shape[-1] == 100
    assert torch.isfinite(logits).all()
