"""Other legal values of each config key: alternatives as data, for any model that has the key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ci.equivalence.round_trip import METADATA_KEYS
from ci.equivalence.tolerances import EPSILON_FACTOR, FLOAT_FACTOR, ROPE_THETA_FACTOR, ZERO_REPLACEMENT

SHAPE_KEYS = frozenset(
    {
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "num_local_experts",
        "vocab_size",
    }
)
"""Keys that the shapes of the weights decide: no other value is legal for this checkpoint."""
IDENTITY_KEYS = frozenset({"model_type", "text_config", "vision_config"})
SPECIAL_KEYS = frozenset(
    {
        "hidden_act",
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
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": SHORT_ROPE_LENGTH,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": 1.1386294361119891,
    "original_max_position_embeddings": SHORT_ROPE_LENGTH,
}
WIDE_YARN = {**YARN, "beta_fast": 4.0, "beta_slow": 0.02, "original_max_position_embeddings": 48}
"""A ramp over several dimensions, its ends no integers however small the heads: rounding them shows."""
ROPES: dict[str, dict[str, Any]] = {
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn, wide ramp": WIDE_YARN,
    "yarn, truncate=False": {**WIDE_YARN, "truncate": False},
    "yarn without attention_factor": {k: v for k, v in YARN.items() if k != "attention_factor"},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
}
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True)
class ConfigChange:
    """One alternative: its name in reports, and the keys of config.json that are set."""

    name: str
    keys: Mapping[str, Any]


def list_changes(config: Mapping[str, Any], resolved: Mapping[str, Any]) -> tuple[ConfigChange, ...]:
    """List every alternative for a config.json; `resolved` is what transformers makes of it, defaults filled in."""
    changes = [*_change_rope(config, resolved), *_change_activation(resolved), *_change_window(resolved)]
    for key, value in resolved.items():
        if key not in SPECIAL_KEYS | SHAPE_KEYS | METADATA_KEYS | IDENTITY_KEYS:
            changes += [ConfigChange(f"{key}={other!r}", {key: other}) for other in _change_by_type(key, value)]
    return tuple(changes)


def _change_by_type(key: str, value: Any) -> list[Any]:
    """Return another legal value by the type of a key; none for text and structures."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, float):
        return [value * EPSILON_FACTOR if "eps" in key else value * FLOAT_FACTOR or ZERO_REPLACEMENT]
    if isinstance(value, int):
        return [value - 1] if value > 1 and "per_tok" in key else [value + 1]
    return []


def _change_rope(config: Mapping[str, Any], resolved: Mapping[str, Any]) -> list[ConfigChange]:
    """Return another base, and each kind of scaling.

    They are written in the style of the config.json, that of transformers 4 or 5.
    """
    now = resolved.get("rope_parameters")
    if not isinstance(now, Mapping) or "rope_theta" not in now:
        return []
    theta = now["rope_theta"]
    other = theta * ROPE_THETA_FACTOR
    ropes = {f"rope_theta={other:g}": {**now, "rope_theta": other}}
    ropes |= {f"rope {name}": {**rope, "rope_theta": theta} for name, rope in ROPES.items()}
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


def _change_activation(resolved: Mapping[str, Any]) -> list[ConfigChange]:
    now = resolved.get("hidden_act")
    return [ConfigChange(f"hidden_act={name}", {"hidden_act": name}) for name in ACTIVATIONS if now and name != now]


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
