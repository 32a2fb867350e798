"""Writes a thin model with the config of a real one, for faults that two layers and short inputs cannot show.

Many layers show an order of layers that is not 0, 1, 2, …; far positions show positions that are rounded or wrap.
Real weights of that many layers would have to be fetched, and long inputs are slow at a real width. All that the
shapes of the weights do not decide stays: RoPE, head size, windows, biases, epsilons, activation, tied embeddings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ci.equivalence.composite_config import (
    TEXT,
    VISION,
    fill_sizes,
    is_composite,
    lower_image_token,
    shrink_tower,
)
from ci.equivalence.image_inputs import ImageRequirements, add_far_images
from ci.equivalence.inputs import InputCase, InputRequirements, find_longest_length, read_published_dtype
from ci.equivalence.nested_config import is_nested, shrink_nested
from ci.equivalence.tolerances import LONGEST_INPUT
from ci.errors import SubjectError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ci.subjects.base import HuggingFaceRunner

VOCABULARY, INTERMEDIATE, HEADS, EXPERTS, EXPERTS_PER_TOKEN = 512, 192, 2, 4, 2
"""Sizes of a thin model; the hidden size is that of its heads."""
EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts")
PER_TOKEN_KEYS = ("num_experts_per_tok", "top_k_experts")
TOKEN_ID_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


def shrink_config(config: Mapping[str, Any], layers: int, resolved: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a Hugging Face config.json of the same architecture with thin layers; a vision tower has as many.

    `resolved` is what transformers makes of it, for the sizes that its sections leave to their defaults. Raises
    SubjectError for a config without sizes.
    """
    if is_nested(config):
        thin = shrink_nested(config, layers, VOCABULARY) | lower_image_token(config, VOCABULARY)
        return thin | {key: None for key in TOKEN_ID_KEYS if not _are_in_vocabulary(config.get(key))}
    if is_composite(config):
        return _shrink_sections(config, layers, resolved or config)
    if "hidden_size" not in config or "num_attention_heads" not in config:
        raise SubjectError(f"no thin model: config.json of {config.get('model_type')} has no sizes at its top level")
    return _shrink_plain(config, layers)


def _shrink_sections(config: Mapping[str, Any], layers: int, resolved: Mapping[str, Any]) -> dict[str, Any]:
    text = fill_sizes(config[TEXT], resolved.get(TEXT) or {})
    if "hidden_size" not in text or "num_attention_heads" not in text:
        raise SubjectError(f"no thin model: config.json of {config.get('model_type')} has no sizes in its {TEXT}")
    thin = {**config, TEXT: _shrink_plain(text, layers), **lower_image_token(config, VOCABULARY)}
    thin |= {key: None for key in TOKEN_ID_KEYS if not _are_in_vocabulary(config.get(key))}
    if isinstance(vision := config.get(VISION), dict):
        tower = fill_sizes(vision, resolved.get(VISION) or {})
        thin[VISION] = shrink_tower(tower, layers, HEADS, INTERMEDIATE)
    return thin


def _shrink_plain(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    shared = config.get("num_key_value_heads", config["num_attention_heads"]) < config["num_attention_heads"]
    thin = {
        **config,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1 if shared else HEADS,
        "hidden_size": HEADS * head_dim,
        "vocab_size": VOCABULARY,
    }
    thin |= {key: INTERMEDIATE for key in config if key.endswith("intermediate_size")}
    thin |= {key: min(config[key], EXPERTS) for key in EXPERT_KEYS if config.get(key)}
    thin |= {key: min(config[key], EXPERTS_PER_TOKEN) for key in PER_TOKEN_KEYS if config.get(key)}
    thin |= {key: thin["num_key_value_heads"] for key in ("num_global_key_value_heads",) if config.get(key)}
    thin |= {key: None for key in TOKEN_ID_KEYS if not _are_in_vocabulary(config.get(key))}
    return thin | _repeat_layer_kinds(config, layers)


def write_synthetic_model(
    config: Mapping[str, Any], directory: Path, side: HuggingFaceRunner | None = None, *, seed: int = 0
) -> Path:
    """Write a Hugging Face directory for `config`, its weights drawn from `seed`, in the config's own dtype.

    `side` is Hugging Face's; without it, transformers in this process. Raises SubjectError where it cannot build it.
    """
    from ci.subjects.hugging_face import HuggingFace

    source = directory.with_name(f"{directory.name}-config")
    source.mkdir(parents=True)
    (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (source / "generation_config.json").write_text("{}", encoding="utf-8")  # code of a model may ask for one
    (side or HuggingFace()).write_model(str(source), str(directory), read_published_dtype(config), seed)
    return directory


@dataclass(frozen=True)
class Reach:
    """How far an input goes: its length in tokens, the model's context, and what stops it short of that."""

    length: int
    context: int
    stopped_by: str = ""

    def __str__(self) -> str:
        covered = f"up to {self.length - 1} of {self.context - 1}"
        return f"{covered}, {self.stopped_by}" if self.stopped_by else covered


def find_reach(needs: InputRequirements, device: str, free_bytes: int) -> Reach:
    """Return how many tokens of a thin model's context an input covers on `device`, "cpu" or "cuda"."""
    longest = LONGEST_INPUT["cpu" if device == "cpu" else "cuda"]
    fitting, context = find_longest_length(needs, free_bytes), needs.positions or longest
    if context <= min(longest, fitting):
        return Reach(context, context)
    if fitting < longest:
        return Reach(fitting, context, f"capped by {free_bytes / 1e9:.1f} GB of free memory")
    return Reach(longest, context, f"capped at {longest} tokens on {device}")


def build_far_case(length: int, seed: int, images: ImageRequirements | None = None) -> InputCase:
    """Build one row of `length` random tokens; with `images` it ends with images as wide and as high as may be."""
    ids = torch.randint(0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))
    case = InputCase("far", ids, rows=("random",))
    return case if images is None else add_far_images(case, images, seed)


def _are_in_vocabulary(ids: Any) -> bool:
    return all(isinstance(i, int) and i < VOCABULARY for i in (ids if isinstance(ids, list) else [ids]))


def _repeat_layer_kinds(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Return every list that has one value a layer, repeated to the new number of layers.

    The last layer keeps its kind: some architectures ask for it.
    """
    depth = config.get("num_hidden_layers")
    lists = {key: value for key, value in config.items() if isinstance(value, list) and len(value) == depth}
    return {
        key: [*(value[i % len(value)] for i in range(layers - 1)), value[-1]] for key, value in lists.items() if value
    }
