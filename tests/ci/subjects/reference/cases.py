"""The models that the reference subject must run as transformers does: every architecture, every option of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ci.subjects.base import ConvertRequest, TraceRequest
from ci.subjects.trace_files import TraceReader
from tests.standin.models import build, write_json
from tests.standin.own_models import OWN_MODELS, write_own_model
from tests.standin.recipes import DENSE, GEMMA4, GEMMA4_31B, GEMMA4_DENSE, LLAMA, LLAMA3, MOE, PIXTRAL, YARN, Recipe

if TYPE_CHECKING:
    from pathlib import Path

ABSENT = "<absent>"
"""Takes a key of upstream's config.json away."""
SMALL = {"num_hidden_layers": 3}
GEMMA4_SMALL = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
GEMMA_4 = "gemma-4-26B-A4B"
LLAMA_31, MISTRAL, MIXTRAL, QWEN2 = "Llama-3.1-8B", "Mistral-7B-v0.1", "Mixtral-8x7B-v0.1", "Qwen2.5-7B"
PIXTRAL_12B = "pixtral-12b"
SLIDING = {"use_sliding_window": True, "sliding_window": 12}
NEW_STYLE = {"rope_scaling": ABSENT, "rope_theta": ABSENT, "rope_parameters": {**LLAMA3, "rope_theta": 700.0}}
BARE_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24, "beta_slow": 2}

RECIPES: dict[str, Recipe] = {
    "llama": Recipe("llama", LLAMA_31, LLAMA),
    "llama-biases": Recipe("llama", LLAMA_31, {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama-llama3": Recipe("llama", LLAMA_31, {**DENSE, "rope_scaling": LLAMA3}),
    "llama-3-2": Recipe(
        "llama", LLAMA_31, {**DENSE, "rope_scaling": {**LLAMA3, "factor": 32.0}, "tie_word_embeddings": True}
    ),
    "llama-yarn": Recipe("llama", LLAMA_31, {**LLAMA, "rope_scaling": YARN}),
    "llama-yarn-bare": Recipe("llama", LLAMA_31, {**LLAMA, "rope_scaling": BARE_YARN}),
    "llama-yarn-mscale": Recipe(
        "llama", LLAMA_31, {**LLAMA, "rope_scaling": {**BARE_YARN, "mscale": 0.7, "mscale_all_dim": 1.3}}
    ),
    "llama-v5": Recipe("llama", LLAMA_31, {**LLAMA, **NEW_STYLE}),
    "llama-tied": Recipe("llama", LLAMA_31, {**LLAMA, "tie_word_embeddings": True}),
    "llama-head-dim": Recipe("llama", LLAMA_31, {**LLAMA, "head_dim": 20, "num_key_value_heads": 1}),
    "llama-gelu": Recipe("llama", LLAMA_31, {**LLAMA, "hidden_act": "gelu_pytorch_tanh"}),
    "mistral": Recipe("mistral", MISTRAL, {**DENSE, "sliding_window": None, "head_dim": 20}),
    "mistral-window": Recipe("mistral", MISTRAL, {**DENSE, "sliding_window": 20}),
    "mixtral": Recipe("mixtral", MIXTRAL, MOE),
    "mixtral-window": Recipe("mixtral", MIXTRAL, {**MOE, "sliding_window": 12, "num_local_experts": 5, "head_dim": 16}),
    "mixtral-null-head-dim": Recipe("mixtral", MIXTRAL, {**MOE, "head_dim": None, "num_experts_per_tok": 3}),
    "qwen2": Recipe("qwen2", QWEN2, DENSE),
    "gemma4-experts": Recipe("gemma4", GEMMA_4, {**GEMMA4, **GEMMA4_SMALL}),
    "gemma4-dense": Recipe("gemma4", GEMMA_4, {**GEMMA4, **GEMMA4_SMALL, **GEMMA4_DENSE}),
    "gemma4-31b": Recipe("gemma4", GEMMA_4, {**GEMMA4, **GEMMA4_SMALL, **GEMMA4_31B}),
    "gemma4-untied": Recipe(
        "gemma4",
        GEMMA_4,
        {**GEMMA4, **GEMMA4_SMALL, "tie_word_embeddings": False, "final_logit_softcapping": None},
    ),
    "llava": Recipe("llava", PIXTRAL_12B, PIXTRAL),
    "llava-tanh": Recipe(
        "llava",
        PIXTRAL_12B,
        {
            **PIXTRAL,
            "projector_hidden_act": "gelu_pytorch_tanh",
            "multimodal_projector_bias": False,
            "vision_config": {**PIXTRAL["vision_config"], "rope_theta": 70.0},  # type: ignore[dict-item]
        },
    ),
    "qwen2-sliding": Recipe("qwen2", QWEN2, {**DENSE, **SLIDING, "max_window_layers": 1}),
    "qwen2-layer-types": Recipe(
        "qwen2",
        QWEN2,
        {**DENSE, **SLIDING, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
}
CASES = (*RECIPES, *OWN_MODELS)
"""Every case: of transformers' models, and of those whose modelling code travels with them."""
MOE_CASES = tuple(name for name in RECIPES if name.startswith("mixtral") or name in ("gemma4-experts", "gemma4-untied"))


def model(name: str, path: Path, *, dtype: str = "float32", **changes: Any) -> Path:
    """The case `name` as a Hugging Face directory, `changes` in its config.json."""
    if name in OWN_MODELS:
        return write_own_model({**OWN_MODELS[name], **changes}, path, dtype=dtype)
    recipe = RECIPES[name]
    small = {} if "vision_config" in recipe.changes else SMALL
    build(replace(recipe, changes={**recipe.changes, **small, **changes}, dtype=dtype, files=2), path)
    config = json.loads((path / "config.json").read_text())
    write_json(path / "config.json", {key: value for key, value in config.items() if value != ABSENT})
    return path


def format_of(name: str) -> str:
    """The checkpoint format of a case."""
    return RECIPES[name].model_id if name in RECIPES else str(OWN_MODELS[name]["model_type"])


def convert_request(source: Path, target: Path, checkpoint_format: str) -> ConvertRequest:
    """A ConvertRequest of paths."""
    return ConvertRequest(str(source), str(target), checkpoint_format, model_config_of(checkpoint_format))


def model_config_of(checkpoint_format: str) -> str:
    """Fast-LLM's class of a format's models."""
    return "multimodal" if checkpoint_format == "llava" else "gpt"


def trace_request(checkpoint: Path, inputs: Path, output: Path, **rest: Any) -> TraceRequest:
    """A TraceRequest of paths."""
    return TraceRequest(checkpoint=str(checkpoint), inputs=str(inputs), output=str(output), **rest)


def save_inputs(path: Path, *, padding: tuple[int, ...] = (0, 9), length: int = 70) -> Path:
    """Random ids over the whole vocabulary beyond every window and original RoPE length, a row for each padding."""
    ids = torch.randint(0, DENSE["vocab_size"], (len(padding), length), generator=torch.Generator().manual_seed(7))
    mask = torch.tensor([[0] * pad + [1] * (length - pad) for pad in padding])
    save_file({"input_ids": ids, "attention_mask": mask}, path)
    return path


def save_image_inputs(path: Path) -> Path:
    """Two rows as above, with two images of different shapes in the first and one in the padded second."""
    token, patch = PIXTRAL["image_token_index"], PIXTRAL["vision_config"]["patch_size"]  # type: ignore[index]
    save_inputs(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("input_ids", "attention_mask")}
    tensors["input_ids"].masked_fill_(tensors["input_ids"] == token, 11)
    shapes, rows, starts = ((2, 3), (4, 1), (3, 2)), (0, 0, 1), (4, 30, 20)
    for (height, width), row, start in zip(shapes, rows, starts, strict=True):
        tensors["input_ids"][row, start : start + height * width] = token
    sizes = torch.tensor(shapes) * patch
    pixels = torch.randn(3, 3, *sizes.amax(0).tolist(), generator=torch.Generator().manual_seed(5))
    for image, (height, width) in zip(pixels, sizes.tolist(), strict=True):
        image[:, height:], image[:, :, width:] = 0, 0
    save_file({**tensors, "pixel_values": pixels, "image_sizes": sizes, "image_rows": torch.tensor(rows)}, path)
    return path


def errors(trace: Path, expected: Path, *, common: bool = False) -> dict[str, float]:
    """||value - expected|| / ||expected|| of each tensor; infinite where not finite, or of other shape or experts.

    Both traces must hold the same tensors, unless only the `common` ones are asked for.
    """
    ours, theirs = TraceReader(trace), TraceReader(expected)
    assert common or set(ours) == set(theirs)
    return {name: _error(name, ours.tensor(name), theirs.tensor(name)) for name in theirs if name in ours}


def _error(name: str, value: torch.Tensor, expected: torch.Tensor) -> float:
    if name.endswith("router_top_experts"):
        return 0.0 if torch.equal(value, expected) else float("inf")
    if value.shape != expected.shape:
        return float("inf")
    error = float((value.double() - expected.double()).norm() / expected.double().norm())
    return min(float("inf"), error)
