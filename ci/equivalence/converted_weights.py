"""Checks each tensor of a converted Fast-LLM checkpoint against the Hugging Face tensors that it must hold.

Fast-LLM's layout is written down here a second time on purpose: this module checks converters, ours included, and
names what is wrong by tensor. https://github.com/ServiceNow/Fast-LLM/tree/main/fast_llm/models/gpt/conversion
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from ci.equivalence.checkpoint_tensors import CheckpointTensors, have_same_bits
from ci.equivalence.tolerances import ROUNDED_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

SUFFIX = "/weights"
"""Fast-LLM's files hold several entries a parameter; this one is its value."""
BLOCK_SOURCES: dict[str, tuple[str, ...]] = {
    "norm_1": ("input_layernorm",),
    "norm_2": ("post_attention_layernorm",),
    "mixer.query": ("self_attn.q_proj",),
    "mixer.key_value": ("self_attn.k_proj", "self_attn.v_proj"),
    "mixer.dense": ("self_attn.o_proj",),
    "mlp.layer_1": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.layer_2": ("mlp.down_proj",),
    "mlp.router": ("block_sparse_moe.gate",),
}
"""Fast-LLM's module in a block → Hugging Face's modules that it stacks by rows."""
EXPERT_SOURCES = {"mlp.layer_1": ("w1", "w3"), "mlp.layer_2": ("w2",)}
"""The same of one expert."""
OUTER_SOURCES = {
    "embeddings.word_embeddings_weight": "model.embed_tokens.weight",
    "head.final_norm.weight": "model.norm.weight",
    "head.output_weights": "lm_head.weight",
}
TRANSPOSED = ".mlp.layer_2."
"""Fast-LLM keeps the down projection transposed."""
_BLOCK = re.compile(r"decoder\.(\d+)\.(.+)\.(weight|bias)")


def find_wrong_tensors(hugging_face: Path, converted: Path) -> list[str] | None:
    """Say which converted tensors are wrong; None for a layout not known here."""
    original, parameters = CheckpointTensors(hugging_face), CheckpointTensors(converted)
    problems = []
    for entry in parameters.files:
        if not entry.endswith(SUFFIX):
            continue
        name = entry.removesuffix(SUFFIX)
        sources = _list_sources(name, original)
        if not sources or any(source not in original for source in sources):
            return None
        if problem := _find_problem(name, parameters.read(entry), sources, original):
            problems.append(problem)
    return problems


def _list_sources(name: str, original: CheckpointTensors) -> list[str]:
    """List the Hugging Face tensors that a parameter holds, in row order.

    The list is empty where the parameter is not known.
    """
    if name in OUTER_SOURCES:
        return [OUTER_SOURCES[name]]
    match = _BLOCK.fullmatch(name)
    if not match or match[2] not in BLOCK_SOURCES:
        return []
    prefix, module, kind = f"model.layers.{match[1]}.", match[2], match[3]
    experts = f"{prefix}block_sparse_moe.experts."
    if module in EXPERT_SOURCES and any(name.startswith(experts) for name in original.files):
        names = [name.removeprefix(experts) for name in original.files if name.startswith(experts)]
        numbers = sorted({int(name.split(".")[0]) for name in names})
        return [f"{experts}{number}.{part}.{kind}" for number in numbers for part in EXPERT_SOURCES[module]]
    return [f"{prefix}{part}.{kind}" for part in BLOCK_SOURCES[module]]


def _find_problem(name: str, actual: Tensor, sources: list[str], original: CheckpointTensors) -> str | None:
    """Compare the rows source by source, so that the message names the source that is wrong."""
    transposed = TRANSPOSED in name
    row, wrong = 0, []
    for source in sources:
        expected = _orient(original.read(source), transposed)
        part = actual[row : row + expected.shape[0]]
        row += expected.shape[0]
        if not have_same_bits(part, expected):
            others = (o for o in sources if have_same_bits(part, _orient(original.read(o), transposed)))
            instead = next(others, "")
            wrong.append(f"{source} (it holds {instead})" if instead else f"{source}{_describe(part, expected)}")
    if row != actual.shape[0]:
        return f"{name} has {actual.shape[0]} rows, expected {row}"
    return f"{name} does not hold {_shorten(wrong)}" if wrong else None


def _orient(tensor: Tensor, transposed: bool) -> Tensor:
    return tensor.t() if transposed and tensor.ndim == 2 else tensor


def _describe(part: Tensor, expected: Tensor) -> str:
    """Name a simple relation of wrong rows to the right ones; empty without one."""
    if part.shape != expected.shape:
        return ""
    if part.ndim == 2 and part.shape[0] == part.shape[1] and have_same_bits(part.t(), expected):
        return " (transposed)"
    if part.ndim == 2 and torch.equal(part.double().sum(1).sort().values, expected.double().sum(1).sort().values):
        return " (rows in another order)"
    if torch.allclose(part.double(), expected.double(), rtol=ROUNDED_WEIGHT, atol=0):
        return " (rounded)"
    return _describe_codes(part, expected)


def _describe_codes(part: Tensor, expected: Tensor) -> str:
    """Say that a matrix holds the numbers of codes alone and the right one does not: they were cast to floats."""
    if part.ndim < 2 or len(set(part.flatten()[:LOOKED_AT].tolist())) < DIFFERENT_CODES:
        return ""
    kinds = (said for said, is_code in CODES.items() if _all(is_code, part) and not _all(is_code, expected))
    return next((f" ({said}: codes that were cast, without their scales)" for said in kinds), "")


def _all(is_code: Callable[[Tensor], Tensor], tensor: Tensor) -> bool:
    return bool(is_code(tensor.float()).all())


def _is_byte(tensor: Tensor) -> Tensor:
    return (tensor.round() == tensor) & (tensor.abs() < 256)


def _is_float8(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float8_e4m3fn).float() == tensor


CODES: dict[str, Callable[[Tensor], Tensor]] = {"whole numbers of a byte": _is_byte, "numbers of float8": _is_float8}
DIFFERENT_CODES, LOOKED_AT = 10, 4096
"""Fewer different numbers among the first ones are a constant, such as a norm's ones, or a mask."""


def _shorten(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 3 else ", ".join(names)
