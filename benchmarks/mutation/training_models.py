"""Tiny models that two ranks can divide: even numbers of heads, and weights that all have an effect."""

from __future__ import annotations

from benchmarks.mutation.tiny_models import TinyModel

EVEN = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
THIN = {**EVEN, "num_hidden_layers": 2, "head_dim": 8}

TRAINING_MODELS: dict[str, TinyModel] = {
    model.name: model
    for model in (
        TinyModel("llama", "llama", {**THIN, "vocab_size": 152, "attention_bias": True, "mlp_bias": True}),
        TinyModel("mistral", "mistral", {**THIN, "sliding_window": 20}, dtype="float32"),
        TinyModel("qwen2", "qwen2", {**EVEN, "num_hidden_layers": 2, "tie_word_embeddings": True}),
        TinyModel("mixtral", "mixtral", {**THIN, "num_local_experts": 4, "num_experts_per_tok": 2}),
    )
}
"""One of each format; `qwen2` has tied embeddings, `llama` biases everywhere."""
