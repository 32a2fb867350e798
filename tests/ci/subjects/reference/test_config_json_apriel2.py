"""config.json of apriel2_text: read, written back, refused by name."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from ci.errors import UnsupportedError
from ci.subjects.reference.config import Attention, GatedDeltaNet, KimiDeltaAttention, Mamba, StochasticMixer
from ci.subjects.reference.config_json_apriel2 import read_apriel2, write_apriel2
from ci.subjects.reference.metadata_yaml import read_base_model
from ci.subjects.reference.metadata_yaml_write import write_base_model
from tests.ci.subjects.reference.test_config_json import read
from tests.standin.own_models import MIXERS, OWN_MODELS

MAMBA = {
    "type": "mamba",
    "d_inner": 24,
    "d_xb": 8,
    "state_size": 4,
    "dt_rank": 3,
    "conv_bias": True,
    "dt_proj_bias": True,
}
CASES = ("apriel2-stochastic", "apriel2-pattern", "apriel2-sigmoid")
MIXER = ("decoder", "block", "mixer", "mixers")


def change(path: tuple[str, ...], value: object, case: str = "apriel2-stochastic") -> dict[str, Any]:
    config = copy.deepcopy(OWN_MODELS[case])
    section = config
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return config


def test_four_mixers_are_read() -> None:
    mixer = read("apriel2-stochastic").blocks[0].mixer
    assert isinstance(mixer, StochasticMixer)
    attention, sliding, net, kimi = (one for _, one in mixer.mixers)
    assert isinstance(attention, Attention)
    assert isinstance(sliding, Attention)
    assert (attention.heads, attention.kv_heads, attention.window, sliding.window) == (6, 2, None, 9)
    assert net == GatedDeltaNet(6, 2, 8, 12, 3, 1e-5)
    assert kimi == KimiDeltaAttention(3, 10, 3, 1e-4, "silu")


@pytest.mark.parametrize("case", CASES)
def test_it_is_written_with_and_without_the_original(case: str) -> None:
    architecture = read(case)
    for original in (OWN_MODELS[case], {}):
        assert read_apriel2(write_apriel2(architecture, original), where="config.json") == architecture
    assert write_apriel2(architecture, OWN_MODELS[case])["decoder"] == OWN_MODELS[case]["decoder"]


def test_fewer_blocks_keep_the_original_words() -> None:
    architecture = read("apriel2-pattern")
    shorter = replace(architecture, blocks=architecture.blocks[:2])
    written = write_apriel2(shorter, OWN_MODELS["apriel2-pattern"])
    assert written["decoder"] == {**OWN_MODELS["apriel2-pattern"]["decoder"], "num_blocks": 2}


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("model_type",), "apriel2", "model_type 'apriel2'"),
        (("vision_encoder",), {}, "vision_encoder"),
        (("head", "normalization", "type"), "layer_norm", "type = 'layer_norm'"),
        (("decoder", "block", "normalization"), {"type": "rms_norm", "epsilon": 0.5}, "epsilon 0.5"),
        (("decoder", "type"), "spiral", "type = 'spiral'"),
        (("decoder", "block", "mlp", "gated"), False, "gated"),
        (("decoder", "block", "mlp", "add_linear_biases"), True, "add_linear_biases"),
        (("decoder", "block", "mlp", "layer_1"), {"bias": {"enabled": True}}, "layer_1"),
        (("decoder", "block", "mixer", "main_mixer_name"), "other", "main_mixer_name"),
        ((*MIXER, "gdn", "type"), "hyena", "type = 'hyena'"),
        ((*MIXER, "gdn"), {**MAMBA, "d_xb": 10}, "10 of 24 in heads of 4"),
        ((*MIXER, "gdn", "key_heads"), 4, "4 of 6 value heads"),
        ((*MIXER, "gdn", "convolution_layer"), {"kernel_size": 3, "activation": "relu"}, "activation"),
        ((*MIXER, "kda", "normalization", "activation"), "tanh", "activation"),
        ((*MIXER, "attention", "rotary", "type"), "llama3", "type = 'llama3'"),
        ((*MIXER, "attention", "cross_document_attention"), False, "cross_document_attention"),
        ((*MIXER, "attention", "key_layer"), {"bias": {"enabled": True}}, "key_layer"),
    ],
)
def test_what_would_change_the_forward_is_refused_by_name(path: tuple[str, ...], value: object, named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        read_apriel2(change(path, value), where="config.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("decoder", "block", "mixer", "sampling_strategy"), "weighted"),
        (("embeddings", "max_position_embeddings"), 7),
        (("auto_map",), {"AutoConfig": "a.B"}),
    ],
)
def test_what_has_no_effect_is_ignored(path: tuple[str, ...], value: object) -> None:
    assert read_apriel2(change(path, value), where="config.json") == read("apriel2-stochastic")


def test_biases_of_single_layers_are_read_and_written() -> None:
    layers = {f"{name}_layer": {"bias": {"enabled": True}} for name in ("query", "key", "value")}
    config = change((*MIXER, "attention"), {**MIXERS["attention"], **layers})
    architecture = read_apriel2(config, where="config.json")
    first = architecture.mixers[0]
    assert isinstance(first, Attention)
    assert (first.qkv_bias, first.output_bias) == (True, False)
    assert read_apriel2(write_apriel2(architecture, {}), where="config.json") == architecture


def test_mamba_is_read_and_written() -> None:
    architecture = read_apriel2(change((*MIXER, "gdn"), MAMBA), where="config.json")
    assert architecture.mixers[2] == Mamba(24, 8, 4, 3, 4, bias=False, convolution_bias=True, step_bias=True)
    assert read_apriel2(write_apriel2(architecture, {}), where="config.json") == architecture
    assert read_base_model(write_base_model(architecture)) == architecture


def test_what_it_cannot_express_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="cannot express"):
        write_apriel2(read("llama-yarn"), {})
