"""Small models in which no bug can hide: awkward unequal sizes, weights of which none is neutral.

Hugging Face's own initialisation (norms of one, biases of zero, small weights) makes whole classes of bugs invisible,
whatever the tolerance: linear weights ~ N(0, 1 / fan_in), norms 1 + 0.3 N, biases 0.3 N, embeddings N(0, 1) do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ci.subjects.base import DType
from ci.subjects.forward import DTYPES

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

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
class Specimen:
    """A model by name: its Hugging Face type, what differs from SIZES, and the dtype it is published in."""

    name: str
    model_type: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    dtype: DType = "bfloat16"


SPECIMENS: dict[str, Specimen] = {
    specimen.name: specimen
    for specimen in (
        Specimen("dense", "llama", {"head_dim": 10}),
        Specimen("biased", "llama", {"attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3}),
        Specimen("window", "mistral", {"sliding_window": 20, "head_dim": 12}),
        Specimen("moe", "mixtral", {"num_local_experts": 6, "num_experts_per_tok": 2, "head_dim": 12}),
        Specimen("tied", "qwen2", {"tie_word_embeddings": True}),
        Specimen("yarn", "llama", {"rope_parameters": YARN, "head_dim": 16}),
        Specimen("float32", "mistral", {"sliding_window": None}, dtype="float32"),
    )
}


def config_of(specimen: Specimen) -> Any:
    """Its transformers configuration."""
    from transformers import AutoConfig

    return AutoConfig.for_model(specimen.model_type, **{**SIZES, **specimen.changes})


def write(specimen: Specimen, directory: Path, *, seed: int = 0) -> Path:
    """A Hugging Face directory with weights drawn from `seed`."""
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(specimen), dtype=torch.float32)
    for name, parameter in model.named_parameters():
        parameter.data = _draw(name, parameter.shape, generator)
    model.to(DTYPES[specimen.dtype]).save_pretrained(directory)
    return directory


def _draw(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return 0.3 * noise
    if len(shape) == 1:
        return 1 + 0.3 * noise
    return noise if "embed_tokens" in name else noise / shape[-1] ** 0.5
