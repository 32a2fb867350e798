"""Bugs of public threads of 2025 and 2026 that the first catalogue did not have.

Each stands for a fault that a real converter or kernel shipped; the comment names the thread.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.mutation import applicability
from benchmarks.mutation.injection import HEAD, Mutation, Patch, Weights
from benchmarks.mutation.kernel_mutations import MODEL
from benchmarks.mutation.locations import IN_LAYER, IN_LAYER_0, LAYER, LAYER_PREFIX
from ci.subjects.reference.moe import Routing

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.subjects.reference.config import Architecture

ROPE = "ci.subjects.reference.rope"
QUERY_IN_LAYER_0 = rf"{IN_LAYER_0}\.mixer\.query"
TILE = 16
"""Rows and columns of a weight that share one scale in a quantised checkpoint, made small for small models."""


def change_positions(change: Callable[[Tensor], Tensor]) -> tuple[Patch, ...]:
    """Return the patch that changes the positions before RoPE's tables are computed."""
    return (Patch(MODEL, "rotary_tables", lambda tables: lambda r, d, p, t: tables(r, d, change(p), t)),)


def _edit_layer(module: str, change: Callable[[Tensor], Tensor]) -> Callable[[Weights, Architecture], None]:
    def edit(weights: Weights, _: Architecture) -> None:
        name = f"{LAYER_PREFIX}.{module}.weight"
        weights[name] = change(weights[name])

    return edit


def _edit_experts(module: str, change: Callable[[Tensor], Tensor]) -> Callable[[Weights, Architecture], None]:
    """Change the stacked experts (E, rows, hidden) of a layer."""

    def edit(weights: Weights, architecture: Architecture) -> None:
        name, count = f"{LAYER_PREFIX}.mlp.{module}.weight", architecture.blocks[LAYER].mlp.experts or 1
        experts = weights[name].reshape(count, -1, weights[name].shape[-1])
        weights[name] = change(experts).flatten(0, 1)

    return edit


def _reverse_experts(weights: Weights, architecture: Architecture) -> None:
    for module in ("layer_1", "layer_2"):
        _edit_experts(module, lambda experts: experts.flip(0))(weights, architecture)


def _interleave_gate_up(experts: Tensor) -> Tensor:
    """Store gate and up row by row, as some fused layouts do: (E, 2 * I, hidden)."""
    gate, up = experts.chunk(2, dim=1)
    return torch.stack([gate, up], dim=2).flatten(1, 2)


def _lose_a_tiles_scale(weight: Tensor) -> Tensor:
    changed = weight.clone()
    changed[:TILE, :TILE] *= 8
    return changed


def _bias_the_choice(routing: Routing) -> Routing:
    """Choose by logits with a bias that rises by expert; weigh by the scores without it."""
    count, per_token = routing.logits.shape[-1], routing.experts.shape[-1]
    bias = torch.linspace(0, 2, count, dtype=routing.logits.dtype, device=routing.logits.device)
    experts = (routing.logits + bias).topk(per_token, dim=-1).indices
    scores = routing.logits.softmax(-1).gather(-1, experts)
    return Routing(routing.logits, experts, (scores / scores.sum(-1, keepdim=True)).to(routing.scores.dtype))


def _route(change: Callable[[Routing], Routing]) -> tuple[Patch, ...]:
    return (Patch(MODEL, "route", lambda route: lambda *args: change(route(*args)), layer=LAYER),)


def _coarse_frequencies(compute: Any) -> Any:
    def run(rope: Any, head_dim: int) -> tuple[Tensor, float]:
        inverse, scale = compute(rope, head_dim)
        return inverse.bfloat16().float(), scale

    return run


def _scaled_embedding(embedding: Any) -> Any:
    return lambda ids, weight: embedding(ids, weight) * math.sqrt(weight.shape[1])


def _scaled_head(linear: Any) -> Any:
    return lambda x, w, b=None: linear(x, w, b) / math.sqrt(w.shape[1])


FIELD: tuple[Mutation, ...] = (
    Mutation(  # https://github.com/NVIDIA/Megatron-LM/issues/5844: the experts of Mixtral
        "experts of a layer in reverse",
        "expert order",
        rf"{IN_LAYER}\.mlp",
        weights=_reverse_experts,
        applies_to=applicability.is_moe,
    ),
    Mutation(  # https://github.com/NVIDIA-NeMo/Megatron-Bridge/issues/4706: fused experts, another layout
        "gate and up of fused experts interleaved",
        "fused expert layout",
        rf"{IN_LAYER}\.mlp",
        weights=_edit_experts("layer_1", _interleave_gate_up),
        applies_to=applicability.is_moe,
    ),
    Mutation(  # https://github.com/NVIDIA-NeMo/Megatron-Bridge/issues/3743: a square matrix transposed both ways
        "square query projection transposed both ways",
        "transpose",
        rf"{IN_LAYER}\.mixer\.query",
        weights=_edit_layer("mixer.query", lambda w: w.t()),
        applies_to=applicability.has_square_output,
    ),
    Mutation(  # https://github.com/NVIDIA-NeMo/Megatron-Bridge/issues/5851: FP8 blocks cast without their scales
        "one tile of the output projection without its scale",
        "lost scale",
        rf"{IN_LAYER}\.mixer",
        weights=_edit_layer("mixer.dense", _lose_a_tiles_scale),
        lossy=True,
    ),
    Mutation(  # https://github.com/NVIDIA-NeMo/Megatron-Bridge/issues/1853: rows of a padded vocabulary
        "embedding rows shifted by one",
        "vocabulary",
        "embeddings",
        weights=lambda w, _: w.update({(n := "embeddings.word_embeddings_weight"): w[n].roll(1, 0)}),
    ),
    Mutation(  # https://github.com/NVIDIA-NeMo/Megatron-Bridge/issues/4657: the router's expert_bias
        "a bias on the choice of experts",
        "router bias",
        rf"{IN_LAYER}\.mlp\.router_top_experts",
        patches=_route(_bias_the_choice),
        hf_targets=("route",),
        applies_to=applicability.is_moe,
    ),
    Mutation(  # the routed scaling factor of DeepSeek-V3, applied to a model without one
        "router scores times 2.5",
        "router",
        rf"{IN_LAYER}\.mlp\.router_scores",
        patches=_route(lambda r: replace(r, scores=r.scores * 2.5)),
        hf_targets=("route",),
        applies_to=applicability.is_moe,
    ),
    Mutation(  # Gemma's scale by sqrt(hidden), in a kernel that all models share
        "embeddings scaled by the kernel",
        "scale",
        "embeddings",
        patches=(Patch(MODEL, "embedding", _scaled_embedding),),
        hf_targets=("embed",),
    ),
    Mutation(  # https://github.com/NVIDIA/Megatron-LM/issues/656: a tied head that is used otherwise than the table
        "logits of a tied head divided by sqrt(hidden)",
        "tying",
        "logits",
        patches=(Patch(MODEL, "linear", _scaled_head, layer=HEAD),),
        hf_targets=("head",),
        applies_to=lambda model: not applicability.is_untied(model),
    ),
    Mutation(  # https://github.com/NVIDIA/Megatron-LM/issues/1482: a float32 buffer cast with the model
        "RoPE frequencies stored in bfloat16",
        "precision of storage",
        QUERY_IN_LAYER_0,
        patches=(Patch(ROPE, "compute_frequencies", _coarse_frequencies),),
        hf_targets=("rope",),
    ),
    Mutation(  # https://github.com/huggingface/transformers/pull/29285: positions in bfloat16
        "positions in bfloat16",
        "position precision",
        QUERY_IN_LAYER_0,
        patches=change_positions(lambda p: p.bfloat16().float()),
        hf_targets=("rope",),
    ),
    Mutation(  # the shape of Fast-LLM 82e83508: RoPE beyond the range of a kernel's integer
        "positions modulo 256",
        "position range",
        QUERY_IN_LAYER_0,
        patches=change_positions(lambda p: p % 256),
        hf_targets=("rope",),
    ),
)
"""Bugs that the default tests catch."""
