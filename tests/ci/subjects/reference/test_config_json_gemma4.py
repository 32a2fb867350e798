"""What the reference reads of Gemma 4's config.json, and what it refuses by name."""

from __future__ import annotations

from typing import Any

import pytest

from ci.errors import UnsupportedError
from ci.subjects.reference.config_json_gemma4 import read_gemma4, write_gemma4
from tests.ci.subjects.reference.cases import format_of
from tests.ci.subjects.reference.test_config_json import config_of, read

CASE = "gemma4-experts"
SLIDING_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gemma4"}, "model_type 'gemma4'"),
        ({"hidden_size_per_layer_input": 256}, "hidden_size_per_layer_input = 256"),
        ({"num_kv_shared_layers": 1}, "num_kv_shared_layers = 1"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention = 'all'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ({"layer_types": ["chunked_attention", "full_attention", "full_attention"]}, "layer_types"),
        ({"top_k_experts": 9}, "top_k_experts"),
        ({"num_experts": None}, "top_k_experts"),
        ({"global_head_dim": 41}, "num_key_value_heads"),
        ({"hidden_activation": "gelu"}, "hidden_activation = 'gelu'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}}, "rope_type = 'linear'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "proportional", "factor": 8.0}}}, "factor = 8.0"),
        ({"surprise": 1}, "surprise = 1"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        read(CASE, **changes)


def test_heads_of_full_layers_follow_the_shared_keys() -> None:
    """transformers reads `num_global_key_value_heads` only where keys are shared with values."""
    shared, own = (read(CASE, attention_k_eq_v=shared).blocks[-1].attention for shared in (True, False))
    assert (shared.kv_heads, shared.shared_key_value, shared.head_dim) == (2, True, 40)
    assert (own.kv_heads, own.shared_key_value, own.head_dim) == (3, False, 40)


def test_missing_keys_have_the_defaults_of_transformers() -> None:
    from transformers import Gemma4TextConfig

    ours = read_gemma4({"model_type": "gemma4_text", "hidden_size_per_layer_input": 0}, where="config.json")
    theirs = Gemma4TextConfig(hidden_size_per_layer_input=0)
    full, sliding = ours.blocks[5].attention, ours.blocks[0].attention
    assert (ours.hidden, ours.vocabulary, ours.tied) == (theirs.hidden_size, theirs.vocab_size, True)
    assert (len(ours.blocks), ours.softcap, ours.epsilon) == (theirs.num_hidden_layers, None, theirs.rms_norm_eps)
    assert (sliding.heads, sliding.kv_heads, sliding.head_dim, sliding.window) == (8, 4, 256, theirs.sliding_window)
    assert (full.kv_heads, full.head_dim, full.window) == (4, theirs.per_layer_config[5].head_dim, None)
    assert [b.attention.window is None for b in ours.blocks] == [k == "full_attention" for k in theirs.layer_types]


def test_a_dense_model_has_no_experts_whatever_their_number() -> None:
    from ci.equivalence.inputs import read_requirements

    assert read_requirements(config_of(CASE)).experts == 5
    assert read_requirements(config_of(CASE, enable_moe_block=False)).experts == 0


def test_a_model_without_full_attention_cannot_be_written() -> None:
    from dataclasses import replace

    architecture = read(CASE)
    sliding = replace(architecture, blocks=architecture.blocks[:2])
    with pytest.raises(UnsupportedError, match="full attention"):
        write_gemma4(sliding, config_of(CASE))
    assert format_of(CASE) == "gemma4"


def test_the_base_of_sliding_layers_is_kept_where_none_is_left() -> None:
    from dataclasses import replace

    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 777.0},
        "full_attention": {"rope_type": "proportional", "rope_theta": 31415.0, "partial_rotary_factor": 0.4},
    }
    original = config_of(CASE, rope_parameters=ropes)
    architecture = read(CASE, rope_parameters=ropes)
    full = replace(architecture, blocks=architecture.blocks[-1:])
    assert write_gemma4(full, original)["rope_parameters"] == ropes
    assert write_gemma4(full, {})["rope_parameters"]["sliding_attention"]["rope_theta"] == 10_000.0
