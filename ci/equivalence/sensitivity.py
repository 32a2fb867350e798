"""Is every config key honoured? Set each to another legal value: where Hugging Face moves, the subject must move alike.

A conversion that drops a key keeps every weight bit for bit and answers as if the key were not there. Alternatives
are data: what a key's other legal values are, whichever model has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ci.equivalence.roundtrip import METADATA

Found = Literal["alike", "refused", "inert", "not legal", "silently ignored", "differs"]
WRONG: tuple[Found, ...] = ("silently ignored", "differs")

SHAPES = frozenset(
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
IDENTITY = frozenset({"model_type", "text_config", "vision_config"})
WINDOW, ORIGINAL = 8, 16
"""Short on purpose: the inputs go beyond both."""
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": 1.1386294361119891,
    "original_max_position_embeddings": ORIGINAL,
}
WIDE = {**YARN, "beta_fast": 4.0, "beta_slow": 0.02, "original_max_position_embeddings": 48}
"""A ramp over several dimensions whose ends are no integers, however small the heads: rounding them shows."""
ROPES: dict[str, dict[str, Any]] = {
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn, wide ramp": WIDE,
    "yarn, truncate=False": {**WIDE, "truncate": False},
    "yarn without attention_factor": {k: v for k, v in YARN.items() if k != "attention_factor"},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
}
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True)
class Change:
    """One alternative: its name in reports, and the keys of config.json that are set."""

    name: str
    keys: Mapping[str, Any]


@dataclass(frozen=True)
class KeyFinding:
    """What came of a change. `error` and `limit` are of the logits, relative L2; `acts_as` another change's name."""

    change: Change
    found: Found
    error: float = 0.0
    limit: float = 0.0
    acts_as: str = ""
    said: str = ""

    def __str__(self) -> str:
        if self.found == "silently ignored":
            return f"{self.change.name} is silently ignored"
        if self.found == "differs":
            instead = f", it answers as {self.acts_as} would" if self.acts_as else ""
            return f"{self.change.name} is converted to something else{instead}: logits off by {self.error:.2g}"
        return f"{self.change.name}: {self.found}{f' ({self.said})' if self.said else ''}"


def changes(config: Mapping[str, Any], resolved: Mapping[str, Any]) -> tuple[Change, ...]:
    """Every alternative for a config.json; `resolved` is what transformers makes of it, defaults filled in."""
    found = [*_ropes(config, resolved), *_activations(resolved), *_windows(resolved)]
    special = {"rope_parameters", "rope_scaling", "rope_theta", "hidden_act", "sliding_window", "use_sliding_window"}
    special |= {"max_window_layers", "layer_types"}
    for key, value in resolved.items():
        if key not in special | SHAPES | METADATA | IDENTITY:
            found += [Change(f"{key}={other!r}", {key: other}) for other in _others(key, value)]
    return tuple(found)


def _others(key: str, value: Any) -> list[Any]:
    """Another legal value of a key nothing is known about, by its type; none for text and structures."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, float):
        return [value * 100 if "eps" in key else value * 1.5 or 0.5]
    if isinstance(value, int):
        return [value - 1] if value > 1 and "per_tok" in key else [value + 1]
    return []


def _ropes(config: Mapping[str, Any], resolved: Mapping[str, Any]) -> list[Change]:
    """Another base, and each kind of scaling, in the style (transformers 4 or 5) that config.json is written in."""
    now = resolved.get("rope_parameters")
    if not isinstance(now, Mapping) or "rope_theta" not in now:
        return []
    theta = now["rope_theta"]
    wanted = {f"rope_theta={theta * 3:g}": {**now, "rope_theta": theta * 3}}
    wanted |= {f"rope {name}": {**rope, "rope_theta": theta} for name, rope in ROPES.items()}
    written = _version_five if "rope_parameters" in config else _version_four
    return [Change(name, {**written(rope), **_length(rope)}) for name, rope in wanted.items()]


def _length(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Dynamic scaling begins beyond `max_position_embeddings`: it must be short to show."""
    return {"max_position_embeddings": ORIGINAL} if rope.get("rope_type") == "dynamic" else {}


def _version_five(rope: Mapping[str, Any]) -> dict[str, Any]:
    return {"rope_parameters": rope}


def _version_four(rope: Mapping[str, Any]) -> dict[str, Any]:
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    return {"rope_theta": rope["rope_theta"], "rope_scaling": None if scaling == {"rope_type": "default"} else scaling}


def _activations(resolved: Mapping[str, Any]) -> list[Change]:
    now = resolved.get("hidden_act")
    return [Change(f"hidden_act={name}", {"hidden_act": name}) for name in ACTIVATIONS if now and name != now]


def _windows(resolved: Mapping[str, Any]) -> list[Change]:
    """A window where there is none, none where there is one, and layers that slide by turns where a model can."""
    if "sliding_window" not in resolved:
        return []
    if "use_sliding_window" not in resolved:
        other = None if resolved["sliding_window"] else WINDOW
        return [Change(f"sliding_window={other}", {"sliding_window": other})]
    window = {"use_sliding_window": True, "sliding_window": WINDOW}
    layers = resolved["num_hidden_layers"]
    kinds = ["sliding_attention" if layer % 2 else "full_attention" for layer in range(layers)]
    everywhere = {**window, "max_window_layers": 0, "layer_types": ["sliding_attention"] * layers}
    return [
        Change("use_sliding_window=True", everywhere),
        Change("use_sliding_window=True in every other layer", {**window, "layer_types": kinds}),
    ]
