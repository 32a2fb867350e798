"""An Architecture written as config.json; what Fast-LLM's format has no place for comes from the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci.errors import UnsupportedError
from ci.subjects.reference.huggingface import (
    ACTIVATIONS,
    DTYPE_KEYS,
    FULL,
    INERT,
    NEUTRAL,
    SLIDING,
    Family,
    family_of,
    read_config,
)
from ci.subjects.reference.huggingface_rope import write_rope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.subjects.reference.config import Architecture


def write_config(
    architecture: Architecture, checkpoint_format: str, dtype: str, original: Mapping[str, Any]
) -> dict[str, Any]:
    """The config.json of `architecture`. Every key that acts is written from it, never copied from `original`.

    `original` is the config.json that the checkpoint once came from ({} where unknown): inert keys and the style of
    spelling are its. Raises UnsupportedError where the format cannot express the architecture.
    """
    family = family_of(checkpoint_format)
    inert = {key: original[key] for key in (*INERT, *NEUTRAL) if key in original and key not in DTYPE_KEYS}
    acting = _spelled(_acting(architecture, family, original), architecture, original)
    config = inert | acting | {_dtype_key(original): dtype}
    if read_config(config, checkpoint_format, where="exported config.json") != architecture:
        raise UnsupportedError(f"a config.json of format {checkpoint_format!r} cannot express {architecture}"[:500])
    return dict(sorted(config.items()))


def _acting(architecture: Architecture, family: Family, original: Mapping[str, Any]) -> dict[str, Any]:
    first = architecture.blocks[0]
    attention, mlp = first.attention, first.mlp
    biases = {"attention_bias": attention.output_bias, "mlp_bias": mlp.bias} if family.own_biases else {}
    experts = {"num_local_experts": mlp.experts, "num_experts_per_tok": mlp.experts_per_token}
    return {
        "architectures": [family.architecture],
        "model_type": family.name,
        "vocab_size": architecture.vocabulary,
        "hidden_size": architecture.hidden,
        "intermediate_size": mlp.intermediate,
        "num_hidden_layers": len(architecture.blocks),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": next(name for name, ours in ACTIVATIONS.items() if ours == mlp.activation),
        "rms_norm_eps": architecture.epsilon,
        "tie_word_embeddings": architecture.tied,
        **write_rope(attention.rope, original),
        **biases,
        **(experts if family.experts else {}),
        **_windows(architecture, family, original),
    }


def _windows(architecture: Architecture, family: Family, original: Mapping[str, Any]) -> dict[str, Any]:
    windows = [block.attention.window for block in architecture.blocks]
    if family.name == "llama":
        return {}
    if family.name != "qwen2":
        return {"sliding_window": windows[0]}
    window = next((window for window in windows if window is not None), None)
    written: dict[str, Any] = {"use_sliding_window": window is not None}
    # A window that is not used, and where it would begin, are kept as the original has them.
    written["sliding_window"] = original.get("sliding_window") if window is None else window
    written["max_window_layers"] = original.get("max_window_layers", len(windows))
    if window is not None or original.get("layer_types") is not None:
        written["layer_types"] = [FULL if each is None else SLIDING for each in windows]
    return written


def _spelled(acting: dict[str, Any], architecture: Architecture, original: Mapping[str, Any]) -> dict[str, Any]:
    """A default that the original (where there is one) leaves out or null is left as it is there."""
    defaults = {
        "head_dim": architecture.hidden // architecture.blocks[0].attention.heads,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "rope_scaling": None,
    }
    unsaid = {
        key
        for key, default in defaults.items()
        if original and original.get(key) is None and key in acting and acting[key] == default
    }
    null = {key: None for key in unsaid if key in original}
    return {key: value for key, value in acting.items() if key not in unsaid} | null


def _dtype_key(original: Mapping[str, Any]) -> str:
    """`torch_dtype` is transformers 4's name, which 5 still reads."""
    return "dtype" if "dtype" in original else "torch_dtype"
