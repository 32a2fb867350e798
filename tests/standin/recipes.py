"""The generated models as data: an upstream config.json, the sizes that are changed in it, and how it is stored.

`configs/` holds upstream's files with their own keys, so that what truncation and conversion must cope with is there.
Sizes are unequal and awkward on purpose, and every window and RoPE length is shorter than the suite's sequences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

CONFIGS = Path(__file__).parent / "configs"
DENSE = {
    "hidden_size": 96,
    "intermediate_size": 152,
    "max_position_embeddings": 512,
    "num_attention_heads": 6,
    "num_hidden_layers": 5,
    "num_key_value_heads": 3,
    "vocab_size": 331,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
MOE = {**DENSE, "hidden_size": 72, "intermediate_size": 104}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 48,
    "attention_factor": 1.1386294361119891,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 48,
    "rope_type": "llama3",
}
GEMMA4 = {
    **{key: value for key, value in DENSE.items() if key != "num_hidden_layers"},
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "num_key_value_heads": 3,
    "num_global_key_value_heads": 2,
    "head_dim": 20,
    "global_head_dim": 40,
    "sliding_window": 20,
    "moe_intermediate_size": 56,
    "num_experts": 5,
    "top_k_experts": 2,
    "pad_token_id": 0,
}
"""The text model of google/gemma-4-26B-A4B: `configs/` has its sizes as published, in the keys of transformers'
configuration_gemma4.py, and not the published file, which has vision and audio beside it."""


@dataclass(frozen=True)
class Recipe:
    """One generated model. `upstream` names the file in configs/, `changes` what differs from it, `files` about how
    many weight files it is spread over.
    """

    model_id: str
    upstream: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    gated: bool = False
    files: int = 4
    weights: Literal["safetensors", "bin"] = "safetensors"
    dtype: str = "bfloat16"

    @property
    def config(self) -> dict[str, Any]:
        """The config.json, upstream's key order kept."""
        upstream: dict[str, Any] = json.loads((CONFIGS / f"{self.upstream}.json").read_text())
        return {**upstream, **self.changes, "torch_dtype": self.dtype}


PIXTRAL = {
    "image_token_index": 10,
    "text_config": {
        "head_dim": 20,
        "hidden_act": "silu",
        "hidden_size": 96,
        "intermediate_size": 152,
        "max_position_embeddings": 512,
        "model_type": "mistral",
        "num_attention_heads": 6,
        "num_hidden_layers": 5,
        "num_key_value_heads": 3,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "vocab_size": 331,
    },
    "vision_config": {
        "head_dim": 12,
        "hidden_act": "silu",
        "hidden_size": 60,
        "image_size": 64,
        "intermediate_size": 88,
        "model_type": "pixtral",
        "num_attention_heads": 5,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": 4,
        "rope_theta": 10000.0,
    },
    "bos_token_id": 256,
    "eos_token_id": 257,
}
"""mistral-community/pixtral-12b: `configs/` has the published sizes, in the keys of transformers' configurations of
llava, pixtral and mistral, and not the published file."""
GEMMA4_DENSE = {
    "enable_moe_block": False,
    "num_experts": None,
    "top_k_experts": None,
    "moe_intermediate_size": None,
    "attention_k_eq_v": False,
    "num_global_key_value_heads": None,
}
GEMMA4_31B = {**GEMMA4_DENSE, "attention_k_eq_v": True, "num_global_key_value_heads": 2}
"""The structure of google/gemma-4-31B: dense, with a value that is the key in its full layers, as the published file
says (quoted in public test files of two projects)."""

LLAMA = {**DENSE, "rope_scaling": None, "rope_theta": 10000.0}

RECIPES = {
    recipe.model_id: recipe
    for recipe in (
        # The registry's own models, scaled down.
        Recipe("meta-llama/Llama-3.1-8B", "Llama-3.1-8B", {**DENSE, "rope_scaling": LLAMA3}, gated=True),
        Recipe("mistralai/Mistral-7B-v0.1", "Mistral-7B-v0.1", {**DENSE, "sliding_window": 20}, files=2),
        Recipe("mistralai/Mistral-7B-v0.3", "Mistral-7B-v0.3", DENSE, files=3),
        Recipe("mistralai/Mixtral-8x7B-v0.1", "Mixtral-8x7B-v0.1", MOE, files=7),
        Recipe("Qwen/Qwen2.5-0.5B", "Qwen2.5-0.5B", {**DENSE, "max_window_layers": 5, "sliding_window": 512}, files=1),
        Recipe("Qwen/Qwen2.5-7B", "Qwen2.5-7B", {**DENSE, "max_window_layers": 5, "sliding_window": 512}),
        Recipe("stand-in/llava", "pixtral-12b", PIXTRAL),
        Recipe("stand-in/gemma4-experts", "gemma-4-26B-A4B", GEMMA4),
        # What the production models leave out.
        Recipe("stand-in/gemma4-dense", "gemma-4-26B-A4B", {**GEMMA4, **GEMMA4_DENSE}),
        Recipe("stand-in/llama", "Llama-3.1-8B", LLAMA),
        Recipe("stand-in/llama-bias", "Llama-3.1-8B", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
        Recipe("stand-in/llama-yarn", "Llama-3.1-8B", {**LLAMA, "rope_scaling": YARN}),
        Recipe("stand-in/llama-tied", "Llama-3.1-8B", {**LLAMA, "tie_word_embeddings": True}, files=1),
        Recipe("stand-in/llama-head-dim", "Llama-3.1-8B", {**LLAMA, "head_dim": 20}),
        Recipe("stand-in/llama-float32", "Llama-3.1-8B", LLAMA, dtype="float32"),
        Recipe("stand-in/llama-bin", "Llama-3.1-8B", LLAMA, files=2, weights="bin", dtype="float16"),
        Recipe("stand-in/mixtral-head-dim", "Mixtral-8x7B-v0.1", {**MOE, "head_dim": 16}),
        Recipe("stand-in/mixtral-window", "Mixtral-8x7B-v0.1", {**MOE, "sliding_window": 12}),
    )
}

TINY_REGISTRY = """
[tiny]
model_id = "stand-in/llama"
checkpoint_format = "llama"
num_layers_to_keep = 2
[tiny.test_params]
batch_size = 2
sequence_length = 16
"""
"""A registry of one entry, `tiny`, for runs that must be short."""
