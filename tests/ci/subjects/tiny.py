"""Small models that are not degenerate: unequal odd sizes, unit-scale activations, norms and biases that matter.

Hugging Face's own initialisation (norms of one, biases of zero, small weights) cannot see swapped norms or lost
biases, so that weights are drawn anew: linear ~ N(0, 1 / fan_in), norms 1 + 0.3 N, biases 0.3 N, embeddings N(0, 1).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, MixtralConfig, Qwen2Config

from ci.subjects.base import TraceRequest
from ci.subjects.trace_files import TraceReader

SIZES: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES, head_dim=16, attention_bias=True, rope_parameters=LLAMA3),
    "mistral": MistralConfig(**SIZES, head_dim=16, sliding_window=9),
    "mixtral": MixtralConfig(**SIZES, head_dim=16, num_local_experts=5, num_experts_per_tok=2, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES, use_sliding_window=False),
}


def save_model(name: str, path: Path, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A tiny model of CONFIGS as a Hugging Face directory; `changes` go to its config."""
    config = CONFIGS[name].__class__.from_dict({**CONFIGS[name].to_dict(), **changes})
    generator = torch.Generator().manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter_name, parameter in model.named_parameters():
        parameter.data = _draw(parameter_name, parameter.shape, generator)
    model.to(dtype).save_pretrained(path)
    return path


def _draw(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return 0.3 * noise
    if noise.ndim == 1:
        return 1 + 0.3 * noise
    return noise if "embed" in name else noise / shape[-1] ** 0.5


def save_inputs(path: Path, *, padding: tuple[int, ...] = (0, 0), length: int = 24) -> Path:
    """Random ids over the whole vocabulary, a row for each of `padding`, left padded by as much."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, SIZES["vocab_size"], (len(padding), length), generator=generator)
    mask = torch.tensor([[0] * pad + [1] * (length - pad) for pad in padding])
    save_file({"input_ids": ids, "attention_mask": mask}, path)
    return path


def trace_request(checkpoint: Path, inputs: Path, output: Path, **rest: Any) -> TraceRequest:
    """A TraceRequest of paths."""
    return TraceRequest(checkpoint=str(checkpoint), inputs=str(inputs), output=str(output), **rest)


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    """||value - expected|| / ||expected|| in float64."""
    expected = expected.double()
    assert bool(expected.isfinite().all())
    assert bool(value.isfinite().all())
    return float((value.double() - expected).norm() / expected.norm())


def compare_traces(path_a: str, path_b: str) -> dict[str, float]:
    """Return the relative error of each tensor of two traces, which have the same names in the same order."""
    a, b = TraceReader(Path(path_a)), TraceReader(Path(path_b))
    assert list(a) == list(b)
    return {name: relative_error(a.tensor(name), b.tensor(name)) for name in a}
