"""Small models that hide no bug: odd, unequal sizes, and weights that all have an effect.

Their weights are those of the product's synthetic models (`draw_weights`): each has an effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ci.subjects.base import DType
from ci.subjects.forward import DTYPES
from ci.subjects.hugging_face.random_model import draw_weights

if TYPE_CHECKING:
    from pathlib import Path

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "max_position_embeddings": 320,
    "num_attention_heads": 6,
    "num_hidden_layers": 4,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "vocab_size": 151,
}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 40,
}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "attention_factor": 1.1386294361119891,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 80,
}


@dataclass(frozen=True)
class TinyModel:
    """A named model: its Hugging Face type, what differs from SIZES in its config, and its native dtype."""

    name: str
    model_type: str
    config_changes: Mapping[str, Any] = field(default_factory=dict)
    dtype: DType = "bfloat16"


TINY_MODELS: dict[str, TinyModel] = {
    tiny_model.name: tiny_model
    for tiny_model in (
        TinyModel("dense", "llama", {"head_dim": 10}),
        TinyModel("biased", "llama", {"attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3}),
        TinyModel("window", "mistral", {"sliding_window": 20, "head_dim": 12}),
        TinyModel("moe", "mixtral", {"num_local_experts": 6, "num_experts_per_tok": 2, "head_dim": 12}),
        TinyModel("tied", "qwen2", {"tie_word_embeddings": True}),
        TinyModel("yarn", "llama", {"rope_parameters": YARN, "head_dim": 16}),
        TinyModel("float32", "mistral", {"sliding_window": None}, dtype="float32"),
    )
}


def make_config(tiny_model: TinyModel) -> Any:
    """Return the transformers configuration of a tiny model."""
    from transformers import AutoConfig

    return AutoConfig.for_model(tiny_model.model_type, **{**SIZES, **tiny_model.config_changes})


def write_tiny_model(tiny_model: TinyModel, directory: Path, *, seed: int = 0) -> Path:
    """Write a Hugging Face checkpoint directory with weights drawn from `seed`."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(make_config(tiny_model), dtype=torch.float32)
    draw_weights(model, seed)
    model.to(DTYPES[tiny_model.dtype]).save_pretrained(directory)
    return directory
