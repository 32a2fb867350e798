"""config.json of apriel_hybrid_ssm: the layout and the sizes of Mamba, as the class of the config completes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.errors import HubTestsError, UnsupportedError
from ci.subjects.reference.config import Attention, Mamba
from ci.subjects.reference.config_json_apriel_hybrid import NAME, read_apriel_hybrid, write_apriel_hybrid
from ci.subjects.reference.config_json_formats import read_any_config, write_any_config
from ci.subjects.reference.metadata_yaml import read_base_model
from ci.subjects.reference.metadata_yaml_write import write_base_model
from tests.standin.own_models import HYBRID

SAVED = {
    **HYBRID,
    "layer_types": ["full_attention", "mamba2", "mamba2"],
    "linear_attn_config": {"short_conv_kernel_size": 4, "head_dim": 128, "num_heads": 32},
    "ssm_cfg": {
        **HYBRID["ssm_cfg"],
        "n_v_heads": 32,
        "n_qk_heads": 32,
        "expand": 1,
        "chunk_size": 128,
        "activation": "identity",
        "dt_min": 0.001,
        "dt_max": 0.1,
        "dt_init": "random",
        "dt_scale": 1.0,
        "dt_init_floor": 1e-4,
        "conv_bias": True,
        "dt_proj_bias": True,
        "repeat_kv_before_conv": True,
    },
}
"""What `save_pretrained` of the format's own class writes: every default is filled in."""


def read(config: dict[str, Any]) -> Any:
    return read_apriel_hybrid(config, where="config.json")


def test_a_layout_says_where_mamba_is() -> None:
    architecture = read(HYBRID)
    attention, first, second = (block.mixer for block in architecture.blocks)
    assert isinstance(attention, Attention)
    assert (attention.heads, attention.kv_heads, attention.head_dim, attention.window) == (6, 3, 10, None)
    assert first == second == Mamba(72, 24, 6, 3, 4, bias=False, convolution_bias=True, step_bias=True)


def test_what_the_configs_own_class_saves_says_the_same() -> None:
    assert read(SAVED) == read(HYBRID)


def test_missing_sizes_are_those_of_the_configs_class() -> None:
    mixer = read({**HYBRID, "hidden_size": 4096, "ssm_cfg": {}}).blocks[1].mixer
    assert mixer == Mamba(4096, 4096, 64, 256, 4, bias=False, convolution_bias=True, step_bias=True)


@pytest.mark.parametrize("config", [HYBRID, SAVED])
def test_it_is_written_as_it_was_read(config: dict[str, Any]) -> None:
    written = write_any_config(read(config), NAME, "bfloat16", config)
    assert {key: written.get(key) for key in config if key != "linear_attn_config"} == {
        key: config[key] for key in config if key != "linear_attn_config"
    }
    assert read_any_config(written, NAME) == read(config)
    assert read(write_apriel_hybrid(read(config), {})) == read(config)


def test_metadata_holds_a_hybrid() -> None:
    assert read_base_model(write_base_model(read(HYBRID))) == read(HYBRID)


def test_without_attention_the_original_says_its_sizes() -> None:
    config = {**HYBRID, "hybrid_block_layout": ["m2"] * 3}
    assert read(write_apriel_hybrid(read(config), config)) == read(config)
    with pytest.raises(HubTestsError):
        write_apriel_hybrid(read(config), {})


@pytest.mark.parametrize("sizes", [{}, {"ssm_cfg": {**HYBRID["ssm_cfg"], "d_xb": 20}}, {"ssm_cfg": None}])
def test_attention_alone_needs_no_sizes_of_mamba_and_keeps_them(sizes: dict[str, Any]) -> None:
    config = {key: HYBRID[key] for key in HYBRID if key != "ssm_cfg"} | {"hybrid_block_layout": ["t"] * 3, **sizes}
    assert all(isinstance(block.mixer, Attention) for block in read(config).blocks)
    written = write_any_config(read(config), NAME, "bfloat16", config)
    assert {key: written[key] for key in written if key == "ssm_cfg"} == sizes


def test_two_kinds_of_mamba_cannot_be_written() -> None:
    architecture = read(HYBRID)
    *rest, last = architecture.blocks
    other = replace(last, mixer=replace(last.mixer, kernel=2))
    with pytest.raises(UnsupportedError, match="cannot express"):
        write_any_config(replace(architecture, blocks=(*rest, other)), NAME, "bfloat16", HYBRID)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"hybrid_block_layout": ["t", "m2"]}, "hybrid_block_layout"),
        ({"hybrid_block_layout": ["t", "m2d", "t"]}, "m2d"),
        ({"layer_types": ["mamba2", "mamba2", "mamba2"]}, "layer_types"),
        ({"ssm_cfg": {**HYBRID["ssm_cfg"], "repeat_kv_before_conv": False}}, "repeat_kv_before_conv"),
        ({"ssm_cfg": {**HYBRID["ssm_cfg"], "d_xb": 20}}, "20 of 72 in heads of 6"),
        ({"ssm_cfg": {**HYBRID["ssm_cfg"], "invented": 1}}, "invented"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        read({**HYBRID, **changed})
