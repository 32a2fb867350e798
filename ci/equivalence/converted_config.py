"""Checks each key of a converted architecture against the Hugging Face config that it was converted from.

One row a key: its name, how to read it from the config, how to read it from what was converted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ci.equivalence.nested_config import is_nested
from ci.equivalence.tolerances import CONFIG_ROUNDING
from ci.subjects.reference.config import Architecture, Block, DefaultRope, Llama3Rope, YarnRope

Config = Mapping[str, Any]
Converted = TypeVar("Converted", Architecture, Block)

ABSENT = object()
"""What a row reads where the converted object has no such key: nothing to compare."""
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu", "gelu": "exact gelu"}
"""Hugging Face's name → Fast-LLM's. Fast-LLM's `gelu` is the tanh approximation, Hugging Face's is exact."""
ROPE_TYPES = {DefaultRope: "default", Llama3Rope: "llama3", YarnRope: "yarn"}


@dataclass(frozen=True)
class ConfigKey(Generic[Converted]):
    """One key: `expected` reads it from the config for a layer, `actual` from the converted block or architecture."""

    name: str
    expected: Callable[[Config, int], Any]
    actual: Callable[[Converted], Any]


def _read_head_dim(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _read_window(config: Config, layer: int) -> int | None:
    window: int | None = config.get("sliding_window")
    if kinds := config.get("layer_types"):
        return window if layer < len(kinds) and kinds[layer] == "sliding_attention" else None
    return window if config.get("use_sliding_window", True) else None


def _is_qwen2(config: Config) -> bool:
    """Return whether the model type fixes the biases.

    Qwen2, and Dream which is made from it, have them on query, key and value only.
    """
    return str(config["model_type"]).lower() in ("qwen2", "dream")


def _rope_key(name: str, key: str, attribute: str) -> ConfigKey[Block]:
    def read_expected(config: Config, _: int) -> Any:
        return (config.get("rope_parameters") or {}).get(key)

    return ConfigKey(name, read_expected, lambda block: getattr(block.attention.rope, attribute, ABSENT))


BLOCK_KEYS: tuple[ConfigKey[Block], ...] = (
    ConfigKey("epsilon", lambda c, _: c["rms_norm_eps"], lambda b: b.epsilon),
    ConfigKey("heads", lambda c, _: c["num_attention_heads"], lambda b: b.attention.heads),
    ConfigKey(
        "key-value heads",
        lambda c, _: c.get("num_key_value_heads") or c["num_attention_heads"],
        lambda b: b.attention.kv_heads,
    ),
    ConfigKey("head_dim", lambda c, _: _read_head_dim(c), lambda b: b.attention.head_dim),
    ConfigKey("window", _read_window, lambda b: b.attention.window),
    ConfigKey(
        "query, key and value bias",
        lambda c, _: _is_qwen2(c) or bool(c.get("attention_bias", False)),
        lambda b: b.attention.qkv_bias,
    ),
    ConfigKey(
        "output bias",
        lambda c, _: not _is_qwen2(c) and bool(c.get("attention_bias", False)),
        lambda b: b.attention.output_bias,
    ),
    ConfigKey("MLP bias", lambda c, _: bool(c.get("mlp_bias", False)), lambda b: b.mlp.bias),
    ConfigKey("intermediate", lambda c, _: c["intermediate_size"], lambda b: b.mlp.intermediate),
    ConfigKey("activation", lambda c, _: ACTIVATIONS.get(c["hidden_act"], c["hidden_act"]), lambda b: b.mlp.activation),
    ConfigKey("experts", lambda c, _: c.get("num_local_experts"), lambda b: b.mlp.experts),
    ConfigKey(
        "experts per token",
        lambda c, _: c.get("num_experts_per_tok") if c.get("num_local_experts") else None,
        lambda b: b.mlp.experts_per_token,
    ),
    ConfigKey(
        "rope",
        lambda c, _: (c.get("rope_parameters") or {}).get("rope_type", "default"),
        lambda b: ROPE_TYPES[type(b.attention.rope)],
    ),
    _rope_key("rope theta", "rope_theta", "theta"),
    _rope_key("rope factor", "factor", "scale_factor"),
    _rope_key("rope original length", "original_max_position_embeddings", "original_context_length"),
    _rope_key("rope low frequency factor", "low_freq_factor", "low_frequency_factor"),
    _rope_key("rope high frequency factor", "high_freq_factor", "high_frequency_factor"),
    _rope_key("rope beta_fast", "beta_fast", "beta_fast"),
    _rope_key("rope beta_slow", "beta_slow", "beta_slow"),
    _rope_key("rope attention factor", "attention_factor", "attention_factor"),
    ConfigKey(  # Fast-LLM has no such key: it always truncates
        "rope truncate", lambda c, _: (c.get("rope_parameters") or {}).get("truncate", True), lambda _: True
    ),
)
"""The keys of each block."""
MODEL_KEYS: tuple[ConfigKey[Architecture], ...] = (
    ConfigKey("layers", lambda c, _: c["num_hidden_layers"], lambda a: len(a.blocks)),
    ConfigKey("tied", lambda c, _: bool(c.get("tie_word_embeddings")), lambda a: a.tied),
    ConfigKey("final epsilon", lambda c, _: c["rms_norm_eps"], lambda a: a.epsilon),
    ConfigKey("vocabulary", lambda c, _: c["vocab_size"], lambda a: a.vocabulary),
    ConfigKey("hidden", lambda c, _: c["hidden_size"], lambda a: a.hidden),
)
"""The keys of the model outside its blocks."""


def find_wrong_keys(config: Config, architecture: Architecture) -> tuple[str, ...]:
    """Say which keys of a converted architecture differ from a resolved Hugging Face config.

    One whose blocks are nested has other keys: nothing is said about it.
    """
    if is_nested(config):
        return ()
    return (*_find_wrong_block_keys(config, architecture), *_find_wrong_model_keys(config, architecture))


def _find_wrong_block_keys(config: Config, architecture: Architecture) -> Iterator[str]:
    """Yield one message a key, about the first layer where it differs."""
    for key in BLOCK_KEYS:
        for layer, block in enumerate(architecture.blocks):
            actual, expected = key.actual(block), key.expected(config, layer)
            if not _are_equal(actual, expected):
                yield f"{key.name} is {actual!r} in layer {layer}, expected {expected!r}"
                break


def _find_wrong_model_keys(config: Config, architecture: Architecture) -> Iterator[str]:
    for key in MODEL_KEYS:
        actual, expected = key.actual(architecture), key.expected(config, 0)
        if not _are_equal(actual, expected):
            yield f"{key.name} is {actual!r}, expected {expected!r}"


def _are_equal(actual: Any, expected: Any) -> bool:
    """Compare two values of a key.

    A float that config.json leaves to a default, None, cannot be compared and counts as equal.
    """
    if actual is ABSENT or (isinstance(actual, float) and expected is None):
        return True
    if isinstance(actual, float) and isinstance(expected, int | float):
        return abs(actual - expected) <= CONFIG_ROUNDING * max(abs(actual), abs(expected))
    return bool(actual == expected)
