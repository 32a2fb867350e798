"""Five small models that engines serve, and twelve faults of an export, each planted into a copy of a checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from tests.standin.models import build, write_json
from tests.standin.recipes import LLAMA3, Recipe

if TYPE_CHECKING:
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
RECIPES = {
    "llama": Recipe("stand-in/served-llama", "Llama-3.1-8B", {**SIZES, "rope_scaling": LLAMA3}, files=1),
    "mistral": Recipe("stand-in/served-mistral", "Mistral-7B-v0.1", {**SIZES, "sliding_window": 20}, files=1),
    "qwen2": Recipe("stand-in/served-qwen2", "Qwen2.5-0.5B", {**SIZES, **WINDOW}, files=1),
    "mixtral": Recipe("stand-in/served-mixtral", "Mixtral-8x7B-v0.1", SIZES, files=1),
    "smollm2": Recipe("stand-in/served-smollm2", "SmolLM2-135M-Instruct", SIZES, files=1),
    "head-dim": Recipe("stand-in/served-head-dim", "Llama-3.1-8B", {**SIZES, "rope_scaling": None, "head_dim": 64}),
}
"""The five architectures, and a llama whose heads are wider than its hidden size says."""
GENERATION = {"bos_token_id": 256, "eos_token_id": [257, 42], "temperature": 0.6, "top_p": 0.9, "do_sample": True}
"""Two ends, and a sampling that an engine takes over."""


def build_served(name: str, directory: Path, *, dtype: str = "float32", seed: int = 0) -> Path:
    """Write one of the models, with a generation config that matters."""
    recipe = RECIPES[name]
    build(Recipe(recipe.model_id, recipe.upstream, recipe.changes, files=1, dtype=dtype), directory, seed)
    write_json(directory / "generation_config.json", GENERATION)
    if recipe.config["tie_word_embeddings"]:
        edit_tensors(_shrink_embeddings, directory)
    return directory


def _shrink_embeddings(tensors: dict[str, Tensor]) -> None:
    """Make a tied head's logits about 1: with embeddings of 1 a single token would have all the probability."""
    tensors["model.embed_tokens.weight"] *= 0.1


@dataclass(frozen=True)
class Fault:
    """A fault of an export of `model`; with `files` its weights are right, and what stands beside them is not."""

    model: str
    plant: Callable[[Path], None]
    dtype: str = "float32"
    files: bool = False


def edit_tensors(edit: Callable[[dict[str, Tensor]], None], directory: Path) -> None:
    """Change the tensors of a directory with one file."""
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(
        {n: t.clone().contiguous() for n, t in tensors.items()}, directory / "model.safetensors", {"format": "pt"}
    )


def edit_config(changes: dict[str, Any], directory: Path) -> None:
    """Change keys of config.json; None removes one."""
    config = json.loads((directory / "config.json").read_text()) | changes
    write_json(directory / "config.json", {key: value for key, value in config.items() if value is not None})


def _drop_bias(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.endswith("bias")]:
        tensors[name] = torch.zeros_like(tensors[name])


def _transpose(tensors: dict[str, Tensor]) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors[name] = tensors[name].T


def _reorder_experts(tensors: dict[str, Tensor]) -> None:
    one, other = (f"model.layers.1.block_sparse_moe.experts.{expert}." for expert in (0, 1))
    for part in ("w1.weight", "w2.weight", "w3.weight"):
        tensors[one + part], tensors[other + part] = tensors[other + part], tensors[one + part]


def _round_to_float16(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensors[name] = tensor.half().to(tensor.dtype)


def _rename(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.1.mlp.gate_projection.weight"] = tensors.pop("model.layers.1.mlp.gate_proj.weight")


def _untie(directory: Path) -> None:
    def add_head(tensors: dict[str, Tensor]) -> None:
        embeddings = tensors["model.embed_tokens.weight"]
        tensors["lm_head.weight"] = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1)) * 0.1

    edit_tensors(add_head, directory)
    edit_config({"tie_word_embeddings": False}, directory)


def _pad_vocabulary(directory: Path) -> None:
    def pad(tensors: dict[str, Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = torch.nn.functional.pad(tensors[name], (0, 0, 0, 384 - len(tensors[name])))

    edit_tensors(pad, directory)
    edit_config({"vocab_size": 384}, directory)


def _change_end(directory: Path) -> None:
    write_json(directory / "generation_config.json", GENERATION | {"eos_token_id": 7})


def _remove_generation_config(directory: Path) -> None:
    (directory / "generation_config.json").unlink()


FAULTS = {
    "dropped bias": Fault("qwen2", partial(edit_tensors, _drop_bias)),
    "lost head_dim": Fault("head-dim", partial(edit_config, {"head_dim": None})),
    "lost RoPE scaling": Fault("llama", partial(edit_config, {"rope_scaling": None})),
    "wrong EOS": Fault("llama", _change_end, files=True),
    "untied head": Fault("smollm2", _untie),
    "transposed projection": Fault("llama", partial(edit_tensors, _transpose)),
    "experts in another order": Fault("mixtral", partial(edit_tensors, _reorder_experts)),
    "float16 in between": Fault("llama", partial(edit_tensors, _round_to_float16)),
    "padded vocabulary": Fault("llama", _pad_vocabulary),
    "missing generation config": Fault("llama", _remove_generation_config, files=True),
    "another dtype": Fault("llama", partial(edit_config, {"torch_dtype": "float16"}), files=True),
    "renamed key": Fault("llama", partial(edit_tensors, _rename)),
}


def plant_fault(fault: Fault, original: Path, directory: Path) -> Path:
    """Return a copy of `original` with the fault in it."""
    shutil.copytree(original, directory)
    fault.plant(directory)
    return directory
