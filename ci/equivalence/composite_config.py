"""A config.json in sections: the text of a model with images, and its vision tower. Pure.

A key of a section is written with a point between: `vision_config.hidden_act`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

TEXT, VISION = "text_config", "vision_config"
SECTIONS = (TEXT, VISION)
IMAGE_TOKEN_KEYS = ("image_token_index", "image_token_id")
SIZE_KEYS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers")
"""What a config.json may leave to its defaults, and a thin model must change."""


def is_composite(config: Config) -> bool:
    """Return whether the text of the model is a section of its own."""
    return isinstance(config.get(TEXT), Mapping)


def find_sections(config: Config) -> tuple[str, ...]:
    """Return the names of the sections that a config has."""
    return tuple(name for name in SECTIONS if isinstance(config.get(name), Mapping))


def take_text(config: Config) -> Config:
    """Return the text's section of a composite config, else the config itself."""
    text: Config = config[TEXT] if is_composite(config) else config
    return text


def name_key(section: str, key: str) -> str:
    """Return the name of a key of a section."""
    return f"{section}.{key}"


def set_keys(config: Config, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with other values of some keys, those of sections among them."""
    edited = dict(config)
    for name, value in keys.items():
        section, point, key = name.partition(".")
        if point and section in SECTIONS:
            edited[section] = {**(edited.get(section) or {}), key: value}
        else:
            edited[name] = value
    return edited


def fill_sizes(config: Config, resolved: Config) -> dict[str, Any]:
    """Return a section with the sizes that it leaves to its defaults, as transformers understands it."""
    return {**{key: resolved[key] for key in SIZE_KEYS if resolved.get(key) is not None}, **config}


def lower_image_token(config: Config, vocabulary: int) -> dict[str, int]:
    """Return the image token's key with an id inside a smaller vocabulary; nothing where it is inside."""
    return {
        key: vocabulary - 2 for key in IMAGE_TOKEN_KEYS if isinstance(i := config.get(key), int) and i >= vocabulary
    }


def shrink_tower(config: Config, layers: int, heads: int, intermediate: int) -> dict[str, Any]:
    """Return a vision tower of few heads; the size of a head, patches, RoPE and activation stay."""
    wide = config.get("num_attention_heads")
    if not (isinstance(wide, int) and isinstance(hidden := config.get("hidden_size"), int)):
        return dict(config)
    thin = {"num_attention_heads": heads, "hidden_size": heads * (config.get("head_dim") or hidden // wide)}
    thin |= {key: heads for key in ("num_key_value_heads",) if key in config}
    return {**config, **thin, "num_hidden_layers": layers, "intermediate_size": intermediate}
