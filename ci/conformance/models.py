"""The small generated models on which an adapter is checked, one for each format that this package knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from transformers.utils.logging import disable_progress_bar

from ci.equivalence.synthetic_model import write_synthetic_model

if TYPE_CHECKING:
    from pathlib import Path

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "max_position_embeddings": 320,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "vocab_size": 152,
    "dtype": "bfloat16",
    "bos_token_id": None,
    "eos_token_id": None,
}
FORMATS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": None, "head_dim": 8},
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": None,
        "head_dim": 8,
    },
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
}
"""By format the config of a model: sizes that differ from one another, so that exchanged ones do not fit."""
SWAPPED = ("model.layers.0.self_attn.q_proj.weight", "model.layers.2.self_attn.q_proj.weight")


def write_model(checkpoint_format: str, directory: Path) -> Path:
    """Write the Hugging Face directory of a format's model."""
    disable_progress_bar()
    config = {"model_type": checkpoint_format, **SIZES, **FORMATS[checkpoint_format]}
    return write_synthetic_model(config, directory)


def write_swapped(source: Path, directory: Path) -> Path:
    """Write a copy in which two layers have each other's query weights: what a wrong converter would do."""
    directory.mkdir()
    (directory / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = load_file(source / "model.safetensors")
    first, second = SWAPPED
    tensors[first], tensors[second] = tensors[second], tensors[first]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory
