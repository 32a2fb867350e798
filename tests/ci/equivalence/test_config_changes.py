"""Alternatives: each legal key has other values that nobody hard-codes, written in the style of the config."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cache
from typing import Any

import pytest
from transformers import AutoConfig, LlamaConfig, MixtralConfig, Qwen2Config
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ci.equivalence.config_changes import (
    ROPES,
    ConfigChange,
    choose_values,
    combine_changes,
    list_changes,
    list_untried_keys,
)

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
PUBLISHED_ROPES = {
    "factor": {1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 40.0, 64.0},
    "low_freq_factor": {1.0},
    "high_freq_factor": {4.0},
    "beta_fast": {32.0},
    "beta_slow": {1.0},
    "mscale": {0.707, 1.0},
    "mscale_all_dim": {0.707, 1.0},
}
"""What published configs carry: Llama-3.1 and 3.2, DeepSeek-V2 and V3, Qwen2.5's yarn, gpt-oss."""


@cache
def defaults() -> dict[str, set[float]]:
    """Key → the numbers that any config class of transformers sets by default."""
    numbers: dict[str, set[float]] = defaultdict(set)
    for kind in CONFIG_MAPPING:
        try:
            config = AutoConfig.for_model(kind).to_dict()
        except Exception:  # a class that needs arguments has no defaults
            continue
        for part in (config, *(value for value in config.values() if isinstance(value, dict))):
            for key, value in part.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    numbers[key].add(float(value))
    return numbers


def test_every_legal_key_has_another_value() -> None:
    names = [change.name for change in list_changes({"rope_theta": 1e4}, QWEN)]
    assert {"rope_theta=31720", "rope_theta=2193", "rms_norm_eps=0.0001372", "rms_norm_eps=4.193e-05"} <= set(names)
    assert "yarn, truncate=False" in " ".join(names)
    assert "use_sliding_window=True" in names
    assert "hidden_act=gelu" in names
    assert not any("vocab_size" in name or "use_cache" in name for name in names)


@pytest.mark.parametrize("config", [LlamaConfig(), Qwen2Config(), MixtralConfig()], ids=lambda c: c.model_type)
def test_no_value_of_a_real_model_is_a_default_of_any_model(config: Any) -> None:
    for key, value in config.to_dict().items():
        if isinstance(value, float):
            assert not defaults()[key] & set(choose_values(key, value)), key


LLAVA: dict[str, Any] = {
    "model_type": "llava",
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "text_config": {**QWEN, "model_type": "qwen2"},
    "vision_config": {
        "model_type": "pixtral",
        "hidden_act": "silu",
        "patch_size": 16,
        "layer_kind": "plain",
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"},
    },
}


def test_each_section_has_the_changes_of_a_model_of_its_own() -> None:
    file = {"text_config": {"rope_theta": 1e4}, "vision_config": {}}
    changes = {change.name: change.keys for change in list_changes(file, LLAVA)}
    text = {name.removeprefix("text_config.") for name in changes if name.startswith("text_config.")}
    assert text == {change.name for change in list_changes({"rope_theta": 1e4}, QWEN)}
    assert changes["text_config.rope_theta=2193"]["text_config.rope_theta"] == 2193
    assert {name for name in changes if name.startswith("vision_config.")} == {
        *(f"vision_config.hidden_act={name}" for name in ("gelu", "gelu_pytorch_tanh", "relu")),
        *("vision_config.rope_theta=31720", "vision_config.rope_theta=2193"),
    }, "no scaling is known of a RoPE of two axes"
    assert changes["vision_config.rope_theta=31720"] == {"vision_config.rope_theta": 31720.0}
    assert changes["projector_hidden_act=relu"] == {"projector_hidden_act": "relu"}
    assert "vision_feature_layer=-2" in changes
    new: dict[str, Any] = {"vision_config": {"rope_parameters": {}}}
    (base,) = (c for c in list_changes(new, LLAVA) if c.name == "vision_config.rope_theta=31720")
    assert base.keys == {"vision_config.rope_parameters": {"rope_theta": 31720.0, "rope_type": "axial"}}


def test_keys_of_sections_that_nothing_is_known_for_are_listed() -> None:
    assert list_untried_keys(LLAVA) == ("vision_feature_select_strategy", "vision_config.layer_kind")


def test_changes_of_both_sections_are_set_together() -> None:
    wanted = ("text_config.rope_theta=31720", "vision_config.rope_theta=31720", "vision_config.hidden_act=relu")
    changes = list_changes({"text_config": {}, "vision_config": {}}, LLAVA)
    (together,) = combine_changes([change for change in changes if change.name in wanted])
    assert {"text_config.rope_theta", "vision_config.rope_theta", "vision_config.hidden_act"} <= together.keys.keys()


def test_a_key_that_nobody_has_seen_gets_two_values_that_are_not_its_own() -> None:
    for value in (0.0, 1.0, 0.5, 1e-5, 30, 2.5):
        chosen = choose_values("new_multiplier", value)
        assert len(set(chosen) - {value, 0.0, 1.0}) == 2


def test_the_values_of_a_key_that_may_be_none_are_tried_where_it_is() -> None:
    assert choose_values("final_logit_softcapping", None) == (3.7, 11.3)


def test_no_scaling_of_rope_has_a_number_that_is_published_or_follows_from_the_others() -> None:
    for name, rope in ROPES.items():
        for key, published in PUBLISHED_ROPES.items():
            assert rope.get(key) not in published, (name, key)
        if given := rope.get("attention_factor"):
            formulas = (1.0, 0.1 * math.log(rope["factor"]) + 1, math.sqrt(rope["factor"]))
            assert all(abs(given - formula) > 0.1 for formula in formulas), name


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("llama3", ("factor", "low_freq_factor", "high_freq_factor")),
        ("yarn", ("factor", "beta_fast", "beta_slow", "attention_factor")),
        ("linear", ("factor",)),
    ],
)
def test_each_number_of_a_scaling_has_two_values(kind: str, keys: tuple[str, ...]) -> None:
    ropes = [rope for rope in ROPES.values() if rope["rope_type"] == kind]
    for key in keys:
        assert len({rope[key] for rope in ropes if key in rope}) >= 2, key


def test_a_scaling_is_also_tried_on_another_base() -> None:
    changes = {change.name: change.keys for change in list_changes({"rope_theta": 1e4}, QWEN)}
    assert changes["rope llama3, rope_theta=31720"]["rope_theta"] == 31720.0
    assert changes["rope llama3, rope_theta=31720"]["rope_scaling"]["low_freq_factor"] == 1.7


def test_honoured_changes_are_tried_together() -> None:
    one, two = ConfigChange("a=1", {"a": 1}), ConfigChange("a=2", {"a": 2})
    other = ConfigChange("b=3", {"b": 3, "c": 4})
    assert combine_changes([one, two]) == ()
    assert combine_changes([one, two, other]) == (ConfigChange("together: a=1, b=3", {"a": 1, "b": 3, "c": 4}),)


def test_keys_without_another_value_are_listed() -> None:
    assert list_untried_keys({**QWEN, "mlp_only_layers": [1], "router": {"kind": "top"}}) == (
        "mlp_only_layers",
        "router",
    )


def test_rope_is_changed_in_the_style_of_the_config() -> None:
    old = {change.name: change.keys for change in list_changes({"rope_theta": 1e4}, QWEN)}
    new = {change.name: change.keys for change in list_changes({"rope_parameters": {}}, QWEN)}
    assert old["rope_theta=31720"] == {"rope_theta": 31720.0, "rope_scaling": None}
    assert old["rope linear"] == {"rope_theta": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 2.7}}
    assert new["rope linear"]["rope_parameters"]["rope_theta"] == 10000.0
    assert new["rope dynamic"]["max_position_embeddings"] < 64, "it would not be reached otherwise"
