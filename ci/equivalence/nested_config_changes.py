"""Other legal values of the keys of nested blocks: each leaf of `decoder`, `head`, `embeddings`, `vision_encoder`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ci.equivalence.tolerances import EPSILON_FACTORS, INTEGER_STEPS, ROPE_THETA_FACTORS

SECTIONS = ("decoder", "head", "embeddings", "vision_encoder")
ACTIVATIONS = ("silu", "gelu_pytorch_tanh", "relu")
Path = tuple[str, ...]


def list_nested_changes(config: Mapping[str, Any], window: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each change's name and the whole sections that it sets, for nested blocks.

    An attention without a window gets `window` tokens.
    """
    for section in SECTIONS:
        if isinstance(config.get(section), Mapping):
            for path, value in _walk(config[section], (section,)):
                for other in _choose_values(path, value, window):
                    changed = _replace(config[section], path[1:], other)
                    yield f"{'.'.join(path)}={other!r}", {section: changed}


def _walk(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Yield every leaf, and what an attention leaves to its default."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "main_mixer_name":
                yield (*path, key), [name for name in node.get("mixers", ()) if name != value]
            else:
                yield from _walk(value, (*path, key))
        if node.get("type") == "attention":
            for key, default in (("window_size", None), ("causal", True)):
                if key not in node:
                    yield (*path, key), default
    else:
        yield path, node


def _choose_values(path: Path, value: Any, window: int) -> tuple[Any, ...]:
    """Choose other legal values of one leaf; none where the shapes of the weights decide it."""
    key = path[-1]
    if key in ("epsilon", "norm_eps"):
        return tuple(float(f"{value * factor:.4g}") for factor in EPSILON_FACTORS)
    if key == "theta":
        return tuple(float(f"{value * factor:.4g}") for factor in ROPE_THETA_FACTORS)
    if key == "window_size":
        return tuple(value + step for step in INTEGER_STEPS) if value else (window,)
    if key == "activation":
        return tuple(name for name in ACTIVATIONS if name != value)
    if key == "main_mixer_name":
        return tuple(value)
    if key in ("causal", "cross_document_attention"):
        return (not value,)
    return ()


def _replace(node: Any, path: Path, value: Any) -> Any:
    return {**node, path[0]: _replace(node.get(path[0], {}), path[1:], value)} if path else value
