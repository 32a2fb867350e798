"""Small models that engines serve: published configs scaled down, and architectures that transformers itself makes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from tests.standin.models import build, write_companions, write_json
from tests.standin.recipes import LLAMA3, YARN, Recipe
from tests.standin.weights import make_tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 331,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "max_position_embeddings": 512,
}
"""Heads of 32: the smallest that vLLM's attention on CPU takes."""
WINDOW = {"max_window_layers": 2, "sliding_window": 512}
PLAIN = {**SIZES, "rope_scaling": None}


def _recipe(upstream: str, changes: dict[str, Any]) -> Recipe:
    return Recipe(f"stand-in/served-{upstream.lower()}", upstream, changes, files=1)


RECIPES = {
    "llama": _recipe("Llama-3.1-8B", {**SIZES, "rope_scaling": LLAMA3}),
    "mistral": _recipe("Mistral-7B-v0.1", {**SIZES, "sliding_window": 20}),
    "qwen2": _recipe("Qwen2.5-0.5B", {**SIZES, **WINDOW}),
    "mixtral": _recipe("Mixtral-8x7B-v0.1", SIZES),
    "smollm2": _recipe("SmolLM2-135M-Instruct", SIZES),
    "head-dim": _recipe("Llama-3.1-8B", {**PLAIN, "head_dim": 64}),
    "llama-all-heads": _recipe("Llama-3.1-8B", {**PLAIN, "num_key_value_heads": 4}),
    "llama-one-head": _recipe("Llama-3.1-8B", {**PLAIN, "num_key_value_heads": 1}),
    "llama-tied": _recipe("Llama-3.1-8B", {**PLAIN, "tie_word_embeddings": True}),
    "llama-bias": _recipe("Llama-3.1-8B", {**PLAIN, "attention_bias": True, "mlp_bias": True}),
    "llama-yarn": _recipe("Llama-3.1-8B", {**SIZES, "rope_scaling": {**YARN, "original_max_position_embeddings": 128}}),
    "mistral-no-window": _recipe("Mistral-7B-v0.3", SIZES),
    "qwen2-untied": _recipe("Qwen2.5-7B", {**SIZES, **WINDOW}),
    "mixtral-window": _recipe("Mixtral-8x7B-v0.1", {**SIZES, "sliding_window": 20}),
}
"""Five architectures of published configs, and what else a config can say: heads, ties, biases, RoPE, windows."""
FORMATS = {"head": "llama", "smollm2": "llama"}
"""The checkpoint format of a recipe whose name does not begin with it."""


@dataclass(frozen=True)
class LibraryModel:
    """A model that no published config is kept of: transformers makes config.json from the keys, and the tensors."""

    model_type: str
    changes: dict[str, Any] = field(default_factory=dict)


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
LIBRARY = {
    "qwen3": LibraryModel("qwen3", {"head_dim": 32}),
    "qwen3-moe": LibraryModel("qwen3_moe", {"head_dim": 32, **EXPERTS, "norm_topk_prob": True}),
    "olmoe": LibraryModel("olmoe", {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4}),
    "olmo2": LibraryModel("olmo2"),
    "gemma2": LibraryModel(
        "gemma2", {"head_dim": 32, "query_pre_attn_scalar": 48, "sliding_window": 20, "final_logit_softcapping": 3.0}
    ),
    "granite": LibraryModel(
        "granite",
        {
            "attention_multiplier": 0.3,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.5,
        },
    ),
    "phi3": LibraryModel("phi3", {"pad_token_id": 0}),
    "starcoder2": LibraryModel("starcoder2", {"use_bias": True}),
    "stablelm": LibraryModel("stablelm", {"partial_rotary_factor": 0.5}),
}
"""Architectures beyond the published configs: norms of queries and keys, soft caps, multipliers, partial RoPE."""
GENERATION = {"bos_token_id": 256, "eos_token_id": [257, 42], "temperature": 0.6, "top_p": 0.9, "do_sample": True}
"""Two ends, and a sampling that an engine takes over."""
TEMPLATE = "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"


def build_served(name: str, directory: Path, *, dtype: str = "float32", seed: int = 0) -> Path:
    """Write one of the models, with a generation config and a chat template that matter."""
    if name in RECIPES:
        recipe = RECIPES[name]
        build(Recipe(recipe.model_id, recipe.upstream, recipe.changes, files=1, dtype=dtype), directory, seed)
        tied = recipe.config["tie_word_embeddings"]
    else:
        tied = _build_library_model(LIBRARY[name], directory, dtype, seed)
    write_json(directory / "generation_config.json", GENERATION)
    edit_json("tokenizer_config.json", {"chat_template": TEMPLATE}, directory)
    if tied:
        edit_tensors(_shrink_embeddings, directory)
    return directory


def find_format(name: str) -> str | None:
    """Return the checkpoint format of a model that a subject converts, None for one of transformers alone."""
    family = name.partition("-")[0]
    return FORMATS.get(family, family) if name in RECIPES else None


def _build_library_model(model: LibraryModel, directory: Path, dtype: str, seed: int) -> bool:
    """Write config.json, tensors and companions; return whether the head is tied."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model.model_type, **{**SIZES, **model.changes})
    made = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    for name, tensor in made.state_dict().items():
        tensor.copy_(make_tensor(name, tuple(tensor.shape), seed).to(tensor.dtype))
    made.save_pretrained(directory)
    write_companions(directory, f"stand-in/served-{model.model_type}", config.to_dict() | {"transformers_version": "5"})
    return bool(config.tie_word_embeddings)


def _shrink_embeddings(tensors: dict[str, Tensor]) -> None:
    """Make a tied head's logits about 1: with embeddings of 1 a single token would have all the probability."""
    tensors["model.embed_tokens.weight"] *= 0.1


def edit_tensors(edit: Callable[[dict[str, Tensor]], None], directory: Path) -> None:
    """Change the tensors of a directory with one file."""
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(
        {n: t.clone().contiguous() for n, t in tensors.items()}, directory / "model.safetensors", {"format": "pt"}
    )


def edit_config(changes: dict[str, Any], directory: Path) -> None:
    """Change keys of config.json; None removes one."""
    edit_json("config.json", changes, directory)


def edit_json(name: str, changes: dict[str, Any], directory: Path) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads((directory / name).read_text()) | changes
    write_json(directory / name, {key: value for key, value in content.items() if value is not None})
