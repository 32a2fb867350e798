"""Alternatives: each legal key has another value, written in the style of the config."""

from __future__ import annotations

from typing import Any

from ci.equivalence.config_changes import list_changes

QWEN: dict[str, Any] = {
    "hidden_act": "silu",
    "layer_types": ["full_attention"] * 2,
    "max_window_layers": 28,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "sliding_window": None,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 100,
}


def test_every_legal_key_has_another_value() -> None:
    names = [change.name for change in list_changes({"rope_theta": 1e4}, QWEN)]
    assert "rope_theta=30000" in names
    assert "yarn, truncate=False" in " ".join(names)
    assert "use_sliding_window=True" in names
    assert "hidden_act=gelu" in names
    assert "rms_norm_eps=9.999999999999999e-05" in names
    assert not any("vocab_size" in name or "use_cache" in name for name in names)


def test_rope_is_changed_in_the_style_of_the_config() -> None:
    old = {change.name: change.keys for change in list_changes({"rope_theta": 1e4}, QWEN)}
    new = {change.name: change.keys for change in list_changes({"rope_parameters": {}}, QWEN)}
    assert old["rope_theta=30000"] == {"rope_theta": 30000.0, "rope_scaling": None}
    assert old["rope linear"] == {"rope_theta": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert new["rope linear"]["rope_parameters"]["rope_theta"] == 10000.0
    assert new["rope dynamic"]["max_position_embeddings"] < 64, "it would not be reached otherwise"
