"""config.json: read as transformers reads it, written back with the same meaning, refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ci.errors import SubjectError, UnsupportedError
from ci.subjects.reference.config import Architecture, DefaultRope
from ci.subjects.reference.config_json import FAMILIES, read_config
from ci.subjects.reference.config_json_formats import read_any_config, write_any_config
from tests.ci.subjects.reference.cases import ABSENT, RECIPES, format_of
from tests.standin.own_models import OWN_MODELS
from tests.standin.recipes import CONFIGS, LLAMA3, YARN

UPSTREAM = {
    "Llama-3.1-8B": "llama",
    "SmolLM2-135M-Instruct": "llama",
    "Mistral-7B-v0.1": "mistral",
    "Mistral-7B-v0.3": "mistral",
    "Mixtral-8x7B-v0.1": "mixtral",
    "Qwen2.5-0.5B": "qwen2",
    "Qwen2.5-7B": "qwen2",
}


def upstream(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return config


def config_of(case: str, **changes: Any) -> dict[str, Any]:
    own = OWN_MODELS.get(case, {})
    if case.startswith("llava"):
        return {**RECIPES[case].config, **changes}
    if "decoder" in own:
        return {**own, **changes}
    merged = {**(own or RECIPES[case].config), "num_hidden_layers": 3, **changes}
    return {key: value for key, value in merged.items() if value != ABSENT}


def read(case: str, **changes: Any) -> Architecture:
    return read_any_config(config_of(case, **changes), format_of(case))


def test_the_shipped_configs_are_all_read() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} == {*UPSTREAM, "gemma-4-26B-A4B", "pixtral-12b"}
    gemma = upstream("gemma-4-26B-A4B")
    architecture = read_any_config(gemma, "gemma4")
    assert write_any_config(architecture, "gemma4", "bfloat16", gemma) == gemma


@pytest.mark.parametrize(
    ("case", "changes", "named"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_type = 'linear'"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type = 'dynamic'"),
        ("llama", {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}, "rope_type = 'longrope'"),
        ("llama", {"rope_scaling": {**YARN, "truncate": False}}, "truncate = False"),
        ("llama", {"rope_scaling": {**LLAMA3, "beta_fast": 2}}, "beta_fast = 2"),
        ("llama", {"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor"),
        ("llama", {"rope_scaling": LLAMA3, "rope_parameters": LLAMA3}, "rope_scaling"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ("llama", {"rope_scaling": {**LLAMA3, "partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ("llama", {"pretraining_tp": 2}, "pretraining_tp = 2"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama", {"sliding_window": 8}, "sliding_window = 8"),
        ("llama", {"attention_sinks": 4}, "attention_sinks = 4"),
        ("llama", {"head_dim": 15}, "head_dim 15"),
        ("llama", {"num_key_value_heads": 4}, "6 attention heads"),
        ("llama", {"model_type": "mistral"}, "model_type 'mistral'"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ("mistral", {"attention_bias": True}, "attention_bias = True"),
        ("mistral", {"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ("mixtral", {"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ("mixtral", {"norm_topk_prob": False}, "norm_topk_prob = False"),
        ("qwen2", {"use_mrope": True}, "use_mrope = True"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ("qwen2", {"layer_types": ["full_attention"] * 2}, "layer_types"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 3}, "layer_types"),
    ],
)
def test_refusals_name_the_key(case: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedError, match=named) as caught:
        read(case, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": ABSENT}, "'hidden_size' is missing"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' must be at least 1"),
        ({"vocab_size": "331"}, "'vocab_size' must be int"),
        ({"rope_scaling": {"rope_type": "yarn"}, "max_position_embeddings": ABSENT}, "is missing"),
        ({"rope_scaling": {**LLAMA3, "factor": None}}, "'factor' must be float"),
        ({"rope_scaling": [1]}, "rope_scaling must be a mapping"),
    ],
)
def test_malformed_configs_name_the_key(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SubjectError, match=named):
        read("llama", **changes)


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(
        UnsupportedError, match="'gpt_neox' is not implemented by the reference; it has llama, mistral, mixtral"
    ):
        read_config({}, "gpt_neox")


def test_defaults_are_those_of_transformers() -> None:
    keys = ("num_key_value_heads", "rms_norm_eps", "rope_theta", "hidden_act", "tie_word_embeddings", "sliding_window")
    bare = dict.fromkeys(keys, ABSENT)
    architectures = {
        name: read(name, num_attention_heads=32, hidden_size=64, **bare) for name in ("llama", "mistral", "mixtral")
    }
    assert [a.blocks[0].attention.kv_heads for a in architectures.values()] == [32, 8, 8]
    assert [a.blocks[0].attention.window for a in architectures.values()] == [None, 4096, None]
    assert [a.epsilon for a in architectures.values()] == [1e-6, 1e-6, 1e-5]
    assert [a.blocks[0].attention.rope for a in architectures.values()] == [*[DefaultRope(1e4)] * 2, DefaultRope(1e6)]


@pytest.mark.parametrize(
    ("use", "first", "windows"), [(True, 1, [None, 12, 12]), (True, 9, [None] * 3), (False, 0, [None] * 3)]
)
def test_qwen2_slides_from_a_layer_on(use: bool, first: int, windows: list[int | None]) -> None:
    architecture = read("qwen2", sliding_window=12, use_sliding_window=use, max_window_layers=first)
    assert [block.attention.window for block in architecture.blocks] == windows


def test_every_family_is_named_after_itself() -> None:
    assert all(name == family.name for name, family in FAMILIES.items())
