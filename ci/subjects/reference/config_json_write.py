"""Writes an Architecture as config.json; keys that Fast-LLM's format has no field for come from the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci.errors import UnsupportedError
from ci.subjects.reference.config_json import (
    ACTIVATIONS,
    DTYPE_KEYS,
    FULL,
    IGNORED_KEYS,
    NEUTRAL_VALUES,
    SLIDING,
    ModelFamily,
    find_family,
    read_config,
)
from ci.subjects.reference.config_json_rope import write_rope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.subjects.reference.config import Architecture


def write_config(
    architecture: Architecture, checkpoint_format: str, dtype: str, original: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the config.json of `architecture`. Raises UnsupportedError where the format cannot express it.

    `original` is the config.json that the checkpoint was converted from ({} where unknown). Keys without effect and the
    style are copied from it; keys with an effect never are.
    """
    family = find_family(checkpoint_format)
    copied = {
        key: original[key] for key in (*IGNORED_KEYS, *NEUTRAL_VALUES) if key in original and key not in DTYPE_KEYS
    }
    written = _restyle(_write_keys(architecture, family, original), architecture, original)
    config = copied | written | {_dtype_key(original): dtype}
    if read_config(config, checkpoint_format, where="exported config.json") != architecture:
        raise UnsupportedError(f"a config.json of format {checkpoint_format!r} cannot express {architecture}"[:500])
    return dict(sorted(config.items()))


def _write_keys(architecture: Architecture, family: ModelFamily, original: Mapping[str, Any]) -> dict[str, Any]:
    first = architecture.blocks[0]
    attention, mlp = first.attention, first.mlp
    biases = {"attention_bias": attention.output_bias, "mlp_bias": mlp.bias} if family.own_biases else {}
    experts = {"num_local_experts": mlp.experts, "num_experts_per_tok": mlp.experts_per_token}
    return {
        "architectures": [family.architecture],
        "model_type": family.other_type if original.get("model_type") == family.other_type else family.name,
        "vocab_size": architecture.vocabulary,
        "hidden_size": architecture.hidden,
        "intermediate_size": mlp.intermediate,
        "num_hidden_layers": len(architecture.blocks),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": next(name for name, activation in ACTIVATIONS.items() if activation == mlp.activation),
        "rms_norm_eps": architecture.epsilon,
        "tie_word_embeddings": architecture.tied,
        **write_rope(attention.rope, original),
        **biases,
        **(experts if family.experts else {}),
        **({"prediction_heads": architecture.prediction_heads} if family.prediction_heads else {}),
        **_write_windows(architecture, family, original),
    }


def _write_windows(architecture: Architecture, family: ModelFamily, original: Mapping[str, Any]) -> dict[str, Any]:
    windows = [block.attention.window for block in architecture.blocks]
    if family.windows == "none":
        return {}
    if family.windows == "all":
        return {"sliding_window": windows[0]}
    window = next((window for window in windows if window is not None), None)
    keys: dict[str, Any] = {"use_sliding_window": window is not None}
    # A window that is not used, and its first layer, are kept as in the original.
    keys["sliding_window"] = original.get("sliding_window") if window is None else window
    keys["max_window_layers"] = original.get("max_window_layers", len(windows))
    if window is not None or original.get("layer_types") is not None:
        keys["layer_types"] = [FULL if each is None else SLIDING for each in windows]
    return keys


def _restyle(written: dict[str, Any], architecture: Architecture, original: Mapping[str, Any]) -> dict[str, Any]:
    """Leave a default value out, or null, where the original does."""
    defaults = {
        "head_dim": architecture.hidden // architecture.blocks[0].attention.heads,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "rope_scaling": None,
        "use_sliding_window": False,
    }
    omitted = {
        key
        for key, default in defaults.items()
        if original and original.get(key) is None and key in written and written[key] == default
    }
    null = {key: None for key in omitted if key in original}
    return {key: value for key, value in written.items() if key not in omitted} | null


def _dtype_key(original: Mapping[str, Any]) -> str:
    """Return the dtype's key: `torch_dtype` is the name in transformers 4, which 5 still reads."""
    return "dtype" if "dtype" in original else "torch_dtype"
