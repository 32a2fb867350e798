"""Fast-LLM's checkpoint layout, written down a second time on purpose: it judges converters, ours included.

A converted tensor is compared with the Hugging Face tensors it must consist of, so that a wrong conversion is named
by tensor, whoever converted. https://github.com/ServiceNow/Fast-LLM/tree/main/fast_llm/models/gpt/conversion
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from ci.equivalence.weights import Weights, same_bits

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SHARD = "/weights"
EMBEDDINGS = "embeddings.word_embeddings_weight"
PARTS: dict[str, tuple[str, ...]] = {
    "norm_1": ("input_layernorm",),
    "norm_2": ("post_attention_layernorm",),
    "mixer.query": ("self_attn.q_proj",),
    "mixer.key_value": ("self_attn.k_proj", "self_attn.v_proj"),
    "mixer.dense": ("self_attn.o_proj",),
    "mlp.layer_1": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.layer_2": ("mlp.down_proj",),
    "mlp.router": ("block_sparse_moe.gate",),
}
OUTSIDE = {
    EMBEDDINGS: "model.embed_tokens.weight",
    "head.final_norm.weight": "model.norm.weight",
    "head.output_weights": "lm_head.weight",
}
EXPERT_PARTS = {"mlp.layer_1": ("w1", "w3"), "mlp.layer_2": ("w2",)}
_BLOCK = re.compile(r"decoder\.(\d+)\.(.+)\.(weight|bias)")


def wrong_tensors(hugging_face: Path, converted: Path) -> list[str] | None:
    """The converted tensors that are not what they must be, in plain words; None for a layout not known here."""
    theirs, ours = Weights(hugging_face), Weights(converted)
    findings = []
    for key in ours.files:
        if not key.endswith(SHARD):
            continue
        name = key.removesuffix(SHARD)
        sources = _sources(name, theirs)
        if not sources or any(source not in theirs for source in sources):
            return None
        if problem := _problem(name, ours.tensor(key), sources, theirs):
            findings.append(problem)
    return findings


def _sources(name: str, theirs: Weights) -> list[str]:
    if name in OUTSIDE:
        return [OUTSIDE[name]]
    match = _BLOCK.fullmatch(name)
    if not match or match[2] not in PARTS:
        return []
    prefix, module, kind = f"model.layers.{match[1]}.", match[2], match[3]
    experts = f"{prefix}block_sparse_moe.experts."
    if module in EXPERT_PARTS and any(file.startswith(experts) for file in theirs.files):
        numbers = sorted({int(file[len(experts) :].split(".")[0]) for file in theirs.files if file.startswith(experts)})
        return [f"{experts}{number}.{part}.{kind}" for number in numbers for part in EXPERT_PARTS[module]]
    return [f"{prefix}{part}.{kind}" for part in PARTS[module]]


def _problem(name: str, actual: Tensor, sources: list[str], theirs: Weights) -> str | None:
    """Compare rows source by source, so that the finding names the source that is wrong."""
    turned = ".mlp.layer_2." in name
    row, wrong = 0, []
    for source in sources:
        expected = _laid(theirs.tensor(source), turned)
        part = actual[row : row + expected.shape[0]]
        row += expected.shape[0]
        if not same_bits(part, expected):
            instead = next((other for other in sources if same_bits(part, _laid(theirs.tensor(other), turned))), "")
            relation = f" (it holds {instead})" if instead else _relation(part, expected)
            wrong.append(f"{source}{relation}")
    if row != actual.shape[0]:
        return f"{name} has {actual.shape[0]} rows, expected {row}"
    return f"{name} does not hold {_few(wrong)}" if wrong else None


def _laid(tensor: Tensor, turned: bool) -> Tensor:
    return tensor.t() if turned and tensor.ndim == 2 else tensor


def _relation(part: Tensor, expected: Tensor) -> str:
    if part.shape != expected.shape:
        return ""
    if part.ndim == 2 and part.shape[0] == part.shape[1] and same_bits(part.t(), expected):
        return " (transposed)"
    if part.ndim == 2 and torch.equal(part.double().sum(1).sort().values, expected.double().sum(1).sort().values):
        return " (rows in another order)"
    close = torch.allclose(part.double(), expected.double(), rtol=2e-2, atol=0)
    return " (rounded)" if close else ""


def _few(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 3 else ", ".join(names)
