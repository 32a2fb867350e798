"""Other legal values of each config key: alternatives as data, for any model that has the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ci.equivalence.composite_config import find_sections, name_key
from ci.equivalence.nested_config_changes import list_nested_changes
from ci.equivalence.round_trip import METADATA_KEYS
from ci.equivalence.tolerances import (
    EPSILON_FACTORS,
    FLOAT_FACTORS,
    INTEGER_STEPS,
    ROPE_THETA_FACTORS,
    ZERO_REPLACEMENTS,
)

SHAPE_KEYS = frozenset(
    {
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "num_local_experts",
        *("num_channels", "patch_size"),
        "vocab_size",
    }
)
"""Keys that the shapes of the weights decide: no other value is legal for this checkpoint."""
IDENTITY_KEYS = frozenset({"model_type", "text_config", "vision_config"})
SPECIAL_KEYS = frozenset(
    {
        *("hidden_act", "projector_hidden_act"),
        "layer_types",
        "max_window_layers",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "use_sliding_window",
    }
)
"""Keys with alternatives of their own, below."""
SHORT_WINDOW, SHORT_ROPE_LENGTH = 8, 16
"""Short on purpose: the inputs go beyond both."""
CHOSEN_NUMBERS: dict[str, tuple[float, ...]] = {
    "attn_logit_softcapping": (7.3, 19.7),
    "final_logit_softcapping": (3.7, 11.3),
    "partial_rotary_factor": (0.375, 0.625),
    "vision_feature_layer": (-2, -3),
}
"""Keys that are None or bounded in many models: values that are legal, and set by no published model."""
LLAMA3 = {"rope_type": "llama3", "original_max_position_embeddings": SHORT_ROPE_LENGTH}
YARN = {"rope_type": "yarn", "original_max_position_embeddings": SHORT_ROPE_LENGTH}
WIDE_RAMP = {"beta_fast": 4.3, "beta_slow": 0.023, "original_max_position_embeddings": 48}
"""A ramp over several dimensions, its ends no integers however small the heads: rounding them shows."""
ROPES: dict[str, dict[str, Any]] = {
    "llama3": {**LLAMA3, "factor": 5.7, "low_freq_factor": 1.7, "high_freq_factor": 5.3},
    "llama3, other factors": {**LLAMA3, "factor": 11.3, "low_freq_factor": 0.6, "high_freq_factor": 2.9},
    "yarn": {**YARN, "factor": 5.7, "beta_fast": 27.0, "beta_slow": 1.7, "attention_factor": 0.83},
    "yarn, wide ramp": {**YARN, **WIDE_RAMP, "factor": 3.3, "attention_factor": 1.61},
    "yarn, truncate=False": {**YARN, **WIDE_RAMP, "factor": 3.3, "attention_factor": 1.61, "truncate": False},
    "yarn without attention_factor": {**YARN, "factor": 7.3, "beta_fast": 27.0, "beta_slow": 1.7},
    "yarn without betas": {**YARN, "factor": 7.3, "attention_factor": 0.83},
    "yarn with mscale": {**YARN, "factor": 7.3, "mscale": 2.7, "mscale_all_dim": 0.7},
    "linear": {"rope_type": "linear", "factor": 2.7},
    "linear, other factor": {"rope_type": "linear", "factor": 5.3},
    "dynamic": {"rope_type": "dynamic", "factor": 2.7},
}
"""No number here is a default, a usual value, or what a formula gives from the others: a hard-coded constant shows.

`attention_factor` is far from YaRN's 0.1 ln(factor) + 1, and llama3's factors are not the 8, 1 and 4 of Llama-3.1.
"""
ON_NEW_BASE = ("llama3", "yarn, wide ramp")
"""Scalings that are also tried on another base: their ramps are computed from it."""
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")
ACTIVATION_KEYS = ("hidden_act", "projector_hidden_act")
TOWERS = ("pixtral",)
"""Vision towers whose RoPE has two axes: no kind of scaling is known for it, so only its base is changed."""


@dataclass(frozen=True)
class ConfigChange:
    """One alternative: its name in reports, and the keys that are set, named as in `composite_config`."""

    name: str
    keys: Mapping[str, Any]


def list_changes(config: Mapping[str, Any], resolved: Mapping[str, Any]) -> tuple[ConfigChange, ...]:
    """List every alternative for a config.json; `resolved` is what transformers makes of it, defaults filled in.

    Each number has at least two alternatives: a converter that hard-codes one value cannot know both.
    """
    changes = [*_change_rope(config, resolved), *_change_activation(resolved), *_change_window(resolved)]
    changes += [ConfigChange(name, keys) for name, keys in list_nested_changes(resolved, SHORT_WINDOW)]
    for section in find_sections(resolved):
        inside = list_changes(config.get(section) or {}, resolved[section])
        changes += [_put_into_section(change, section) for change in inside]
    for key, value in resolved.items():
        if key not in SPECIAL_KEYS | SHAPE_KEYS | METADATA_KEYS | IDENTITY_KEYS:
            changes += [ConfigChange(f"{key}={other!r}", {key: other}) for other in choose_values(key, value)]
    return tuple(changes)


def list_untried_keys(resolved: Mapping[str, Any]) -> tuple[str, ...]:
    """List the keys that the forward pass may read and that no alternative is known for: texts and structures."""
    known = SPECIAL_KEYS | SHAPE_KEYS | METADATA_KEYS | IDENTITY_KEYS
    known |= {name.partition(".")[0] for name, _ in list_nested_changes(resolved, SHORT_WINDOW)}
    plain = (key for key, value in resolved.items() if key not in known and not choose_values(key, value))
    sections = ((s, list_untried_keys(resolved[s])) for s in find_sections(resolved))
    return (*plain, *(name_key(section, key) for section, keys in sections for key in keys))


def _put_into_section(change: ConfigChange, section: str) -> ConfigChange:
    keys = {name_key(section, key): value for key, value in change.keys.items()}
    return ConfigChange(name_key(section, change.name), keys)


def combine_changes(changes: Sequence[ConfigChange]) -> tuple[ConfigChange, ...]:
    """Return one change that sets the keys of all `changes` at once, the first of each key; none for fewer than two.

    Keys that are honoured one by one may still be lost together, as where one formula reads both.
    """
    first: dict[str, ConfigChange] = {}
    for change in changes:
        if not first.keys() & change.keys.keys():
            first |= dict.fromkeys(change.keys, change)
    parts = tuple(dict.fromkeys(change.name for change in first.values()))
    keys = {key: value for change in first.values() for key, value in change.keys.items()}
    return (ConfigChange(f"together: {', '.join(parts)}", keys),) if len(parts) > 1 else ()


def choose_values(key: str, value: Any) -> tuple[Any, ...]:
    """Choose other legal values by the type of a key; none for texts and structures."""
    if key in CHOSEN_NUMBERS:
        return tuple(number for number in CHOSEN_NUMBERS[key] if number != value)
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, float):
        return _choose_floats(key, value)
    if isinstance(value, int):
        return _choose_integers(key, value)
    return ()


def _choose_floats(key: str, value: float) -> tuple[float, ...]:
    if not value:
        return ZERO_REPLACEMENTS
    factors = EPSILON_FACTORS if "eps" in key else FLOAT_FACTORS
    return tuple(float(f"{value * factor:.4g}") for factor in factors)


def _choose_integers(key: str, value: int) -> tuple[int, ...]:
    """Choose smaller numbers of experts a token, since the others may be all there are; else larger ones."""
    if "per_tok" in key:
        return tuple(range(max(1, value - 2), value)) or (value + 1,)
    return tuple(value + step for step in INTEGER_STEPS)


def _change_rope(config: Mapping[str, Any], resolved: Mapping[str, Any]) -> list[ConfigChange]:
    """Return other bases, and each kind of scaling, on the model's own base and on another.

    They are written in the style of the config.json, that of transformers 4 or 5.
    """
    now = resolved.get("rope_parameters")
    if not isinstance(now, Mapping) or "rope_theta" not in now:
        return []
    theta = now["rope_theta"]
    bases = tuple(float(f"{theta * factor:.4g}") for factor in ROPE_THETA_FACTORS)
    ropes = {f"rope_theta={base:g}": {**now, "rope_theta": base} for base in bases}
    if resolved.get("model_type") in TOWERS:
        write = _write_version_5 if "rope_parameters" in config else _write_base
        return [ConfigChange(name, write(rope)) for name, rope in ropes.items()]
    ropes |= {f"rope {name}": {**rope, "rope_theta": theta} for name, rope in ROPES.items()}
    ropes |= {f"rope {name}, rope_theta={bases[0]:g}": {**ROPES[name], "rope_theta": bases[0]} for name in ON_NEW_BASE}
    write = _write_version_5 if "rope_parameters" in config else _write_version_4
    return [ConfigChange(name, {**write(rope), **_shorten_length(rope)}) for name, rope in ropes.items()]


def _shorten_length(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten `max_position_embeddings` for dynamic scaling, which begins beyond it."""
    return {"max_position_embeddings": SHORT_ROPE_LENGTH} if rope.get("rope_type") == "dynamic" else {}


def _write_version_5(rope: Mapping[str, Any]) -> dict[str, Any]:
    return {"rope_parameters": rope}


def _write_version_4(rope: Mapping[str, Any]) -> dict[str, Any]:
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    return {"rope_theta": rope["rope_theta"], "rope_scaling": None if scaling == {"rope_type": "default"} else scaling}


def _write_base(rope: Mapping[str, Any]) -> dict[str, Any]:
    return {"rope_theta": rope["rope_theta"]}


def _change_activation(resolved: Mapping[str, Any]) -> list[ConfigChange]:
    return [
        ConfigChange(f"{key}={name}", {key: name})
        for key in ACTIVATION_KEYS
        for name in ACTIVATIONS
        if (now := resolved.get(key)) and name != now
    ]


def _change_window(resolved: Mapping[str, Any]) -> list[ConfigChange]:
    """Return a window where there is none, and none where there is one.

    Where a model can, layers with and without a window alternate in one more change.
    """
    if "sliding_window" not in resolved:
        return []
    if "use_sliding_window" not in resolved:
        other = None if resolved["sliding_window"] else SHORT_WINDOW
        return [ConfigChange(f"sliding_window={other}", {"sliding_window": other})]
    window = {"use_sliding_window": True, "sliding_window": SHORT_WINDOW}
    layers = resolved["num_hidden_layers"]
    kinds = ["sliding_attention" if layer % 2 else "full_attention" for layer in range(layers)]
    everywhere = {**window, "max_window_layers": 0, "layer_types": ["sliding_attention"] * layers}
    return [
        ConfigChange("use_sliding_window=True", everywhere),
        ConfigChange("use_sliding_window=True in every other layer", {**window, "layer_types": kinds}),
    ]
