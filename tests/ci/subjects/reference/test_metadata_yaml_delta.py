"""Gated delta net and Kimi delta attention in Fast-LLM's tree."""

from __future__ import annotations

from typing import Any

import pytest

from ci.errors import UnsupportedError
from ci.subjects.reference.config import GatedDeltaNet, KimiDeltaAttention, Mamba
from ci.subjects.reference.config_section import ConfigSection
from ci.subjects.reference.metadata_yaml_delta import DELTA_READERS, write_delta_mixer

NET = GatedDeltaNet(6, 2, 8, 12, 3, 1e-3)
MAMBA = Mamba(24, 8, 4, 3, 3, bias=False, convolution_bias=True, step_bias=True)
KIMI = KimiDeltaAttention(3, 10, 2, 1e-4, "sigmoid")


def read(tree: dict[str, Any]) -> GatedDeltaNet | KimiDeltaAttention | Mamba:
    section = ConfigSection("mixer", tree)
    return DELTA_READERS[section.take("type", str)](section)


@pytest.mark.parametrize("mixer", [NET, KIMI, MAMBA])
def test_a_mixer_is_read_as_it_was_written(mixer: GatedDeltaNet | KimiDeltaAttention | Mamba) -> None:
    assert read(write_delta_mixer(mixer)) == mixer


def test_missing_keys_have_fast_llms_defaults() -> None:
    assert read({"type": "gdn"}) == GatedDeltaNet(16, 8, 64, 64, 4)
    assert read({"type": "kda"}) == KimiDeltaAttention(16, 64, 4)
    assert read({"type": "mamba"}) == Mamba(2048, 1024, 16, 64, 4, bias=True, convolution_bias=True, step_bias=True)


@pytest.mark.parametrize(
    ("mixer", "changes", "named"),
    [
        (NET, {"qkv_projection_layer": {"bias": {"enabled": True}}}, "enabled"),
        (NET, {"convolution_layer": {"bias": {"enabled": True}}}, "enabled"),
        (NET, {"convolution_layer": {"activation": "relu"}}, "activation"),
        (NET, {"normalization": {"activation": "sigmoid"}}, "activation sigmoid"),
        (NET, {"normalization": {"zero_centered": True}}, "zero_centered"),
        (KIMI, {"normalization": {"activation": "tanh"}}, "activation"),
        (KIMI, {"beta_projection_layer": {"bias": {"enabled": True}}}, "enabled"),
        (KIMI, {"rotary": {}}, "rotary"),
        (MAMBA, {"z_layer": {"bias": {"enabled": True}}}, "z_layer"),
        (MAMBA, {"repeat_kv_before_conv": False}, "repeat_kv_before_conv"),
        (MAMBA, {"cross_document_attention": False}, "cross_document_attention"),
    ],
)
def test_what_would_change_the_forward_is_refused_by_name(mixer: Any, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        read(write_delta_mixer(mixer) | changes)


def test_training_settings_are_ignored() -> None:
    ignored = {"lr_scale": 2.0, "dt_bias_weight": {}, "a_log_weight": {"lr_scale": 0.0}}
    layers = {"output_layer": {"lr_scale": 2.0, "weight": {"initialization": {}}}}
    assert read(write_delta_mixer(NET) | ignored | layers) == NET
