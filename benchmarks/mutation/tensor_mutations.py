"""Conversion bugs in tensors: order, layout, mapping, loss, transposition, precision."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.mutation import applicability
from benchmarks.mutation.injection import Mutation, Weights
from benchmarks.mutation.locations import IN_LAYER, IN_LAYER_0, LAYER, LAYER_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.subjects.reference.config import Architecture


def _edit(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Weights, Architecture], None]:
    def edit(weights: Weights, _: Architecture) -> None:
        if name in weights:
            weights[name] = change(weights[name])

    return edit


def _swap(one: str, other: str) -> Callable[[Weights, Architecture], None]:
    def edit(weights: Weights, _: Architecture) -> None:
        weights[one], weights[other] = weights[other], weights[one]

    return edit


def _halves(tensor: Tensor) -> Tensor:
    first, second = tensor.chunk(2)
    return torch.cat([second, first])


def _first_half_zero(tensor: Tensor) -> Tensor:
    first, second = tensor.chunk(2)
    return torch.cat([torch.zeros_like(first), second])


def _second_half_zero(tensor: Tensor) -> Tensor:
    first, second = tensor.chunk(2)
    return torch.cat([first, torch.zeros_like(second)])


def _last_rows_zero(tensor: Tensor) -> Tensor:
    changed = tensor.clone()
    changed[-1:] = 0
    return changed


def _first_row_zero(tensor: Tensor) -> Tensor:
    changed = tensor.clone()
    changed[0] = 0
    return changed


def _rounded(tensor: Tensor) -> Tensor:
    """Round the value part (the second of key and value) to 5 significant bits."""
    key, value = tensor.chunk(2)
    mantissa, exponent = value.frexp()
    return torch.cat([key, torch.ldexp((mantissa * 32).round() / 32, exponent)])


def _split(rows: Tensor, count: int) -> Tensor:
    """Reshape (count * n, …) to (count, n, …)."""
    return rows.reshape(count, -1, *rows.shape[1:])


def _interleaved(rows: Tensor, heads: int) -> Tensor:
    """Reorder (heads * D, …) from halves to pairs: rows i and i + D / 2 are neighbours."""
    by_head = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return by_head.transpose(1, 2).reshape(rows.shape)


def _interleave_all(weights: Weights, architecture: Architecture) -> None:
    heads, kv_heads = architecture.blocks[0].attention.heads, architecture.blocks[0].attention.kv_heads
    for name in list(weights):
        if ".mixer.query." in name:
            weights[name] = _interleaved(weights[name], heads)
        if ".mixer.key_value." in name:
            _key_rows(weights, name, lambda key: _interleaved(key, kv_heads))


def _interleave_key(weights: Weights, architecture: Architecture) -> None:
    heads = architecture.blocks[LAYER].attention.kv_heads
    for kind in ("weight", "bias"):
        _key_rows(weights, f"{LAYER_PREFIX}.mixer.key_value.{kind}", lambda key: _interleaved(key, heads))


def _key_rows(weights: Weights, name: str, change: Callable[[Tensor], Tensor]) -> None:
    if name in weights:
        key, value = weights[name].chunk(2)
        weights[name] = torch.cat([change(key), value])


def _layer_twice(weights: Weights, _: Architecture) -> None:
    for name in [name for name in weights if name.startswith("decoder.3.")]:
        weights[name] = weights[name.replace("decoder.3.", "decoder.2.")]


def _layers_swapped(weights: Weights, architecture: Architecture) -> None:
    for name in [name for name in weights if name.startswith("decoder.1.")]:
        _swap(name, name.replace("decoder.1.", "decoder.2."))(weights, architecture)


def _head_tied(weights: Weights, _: Architecture) -> None:
    weights["head.output_weights"] = weights["embeddings.word_embeddings_weight"].clone()


def _heads_reversed(weights: Weights, architecture: Architecture) -> None:
    heads = 2 * architecture.blocks[LAYER].attention.kv_heads
    order = [*reversed(range(heads // 2)), *reversed(range(heads // 2, heads))]
    for kind in ("weight", "bias"):
        if (name := f"{LAYER_PREFIX}.mixer.key_value.{kind}") in weights:
            weights[name] = _split(weights[name], heads)[order].flatten(0, 1)


def _query_heads_regrouped(weights: Weights, architecture: Architecture) -> None:
    attention = architecture.blocks[LAYER].attention
    order = torch.arange(attention.heads).reshape(attention.kv_heads, -1).t().flatten().tolist()
    for kind in ("weight", "bias"):
        if (name := f"{LAYER_PREFIX}.mixer.query.{kind}") in weights:
            weights[name] = _split(weights[name], attention.heads)[order].flatten(0, 1)


def _one_head_negated(weights: Weights, architecture: Architecture) -> None:
    changed = weights[f"{LAYER_PREFIX}.mixer.query.weight"].clone()
    changed[: architecture.blocks[LAYER].attention.head_dim] *= -1
    weights[f"{LAYER_PREFIX}.mixer.query.weight"] = changed


def _by_expert(weights: Weights, architecture: Architecture, change: Callable[[Tensor], Tensor]) -> None:
    count = architecture.blocks[LAYER].mlp.experts or 0
    for layer in ("layer_1", "layer_2"):
        name = f"{LAYER_PREFIX}.mlp.{layer}.weight"
        weights[name] = change(_split(weights[name], count).clone()).flatten(0, 1)


def _experts_swapped(weights: Weights, architecture: Architecture) -> None:
    _by_expert(weights, architecture, lambda experts: experts[[0, 2, 1, *range(3, len(experts))]])


def _expert_lost(weights: Weights, architecture: Architecture) -> None:
    _by_expert(weights, architecture, lambda experts: torch.cat([experts[:-1], torch.zeros_like(experts[-1:])]))


def _expert_twice(weights: Weights, architecture: Architecture) -> None:
    _by_expert(weights, architecture, lambda experts: torch.cat([experts[:-1], experts[:1]]))


def _expert_gate_up(weights: Weights, architecture: Architecture) -> None:
    name, count = f"{LAYER_PREFIX}.mlp.layer_1.weight", architecture.blocks[LAYER].mlp.experts or 0
    experts = _split(weights[name], count).clone()
    experts[1] = _halves(experts[1])
    weights[name] = experts.flatten(0, 1)


TENSORS: tuple[Mutation, ...] = (
    Mutation(
        "gate and up swapped",
        "gate/up order",
        rf"{IN_LAYER}\.mlp",
        weights=_edit(f"{LAYER_PREFIX}.mlp.layer_1.weight", _halves),
        applies_to=applicability.is_dense,
    ),
    Mutation(
        "gate and up biases swapped",
        "gate/up order",
        rf"{IN_LAYER}\.mlp",
        weights=_edit(f"{LAYER_PREFIX}.mlp.layer_1.bias", _halves),
        applies_to=applicability.has_all_biases,
    ),
    Mutation(
        "key and value swapped",
        "key/value order",
        rf"{IN_LAYER}\.mixer\.key",
        weights=_edit(f"{LAYER_PREFIX}.mixer.key_value.weight", _halves),
    ),
    Mutation("query and key rows interleaved", "RoPE layout", rf"{IN_LAYER_0}\.mixer\.query", weights=_interleave_all),
    Mutation("key rows interleaved in one layer", "RoPE layout", rf"{IN_LAYER}\.mixer\.key", weights=_interleave_key),
    Mutation(
        "norms of a layer swapped",
        "norm mapping",
        rf"{IN_LAYER}\.norm_1",
        weights=_swap(f"{LAYER_PREFIX}.norm_1.weight", f"{LAYER_PREFIX}.norm_2.weight"),
    ),
    Mutation(
        "norm weight stored as 1 + w",
        "zero-centred norm",
        rf"{IN_LAYER}\.norm_2",
        weights=_edit(f"{LAYER_PREFIX}.norm_2.weight", lambda w: w + 1),
    ),
    Mutation(
        "final norm left at ones",
        "norm mapping",
        "final_norm",
        weights=_edit("head.final_norm.weight", torch.ones_like),
        lossy=True,
    ),
    Mutation(
        "query bias dropped",
        "lost bias",
        rf"{IN_LAYER}\.mixer\.query",
        weights=_edit(f"{LAYER_PREFIX}.mixer.query.bias", torch.zeros_like),
        applies_to=applicability.has_query_bias,
        lossy=True,
    ),
    Mutation(
        "value bias dropped",
        "lost bias",
        rf"{IN_LAYER}\.mixer\.value",
        weights=_edit(f"{LAYER_PREFIX}.mixer.key_value.bias", _second_half_zero),
        applies_to=applicability.has_query_bias,
        lossy=True,
    ),
    Mutation(
        "key bias dropped",
        "lost bias",
        rf"{IN_LAYER}\.mixer\.key",
        weights=_edit(f"{LAYER_PREFIX}.mixer.key_value.bias", _first_half_zero),
        applies_to=applicability.has_query_bias,
        lossy=True,
    ),
    Mutation(
        "output projection bias dropped",
        "lost bias",
        rf"{IN_LAYER}\.mixer",
        weights=_edit(f"{LAYER_PREFIX}.mixer.dense.bias", torch.zeros_like),
        applies_to=applicability.has_all_biases,
        lossy=True,
    ),
    Mutation(
        "down projection bias dropped",
        "lost bias",
        rf"{IN_LAYER}\.mlp",
        weights=_edit(f"{LAYER_PREFIX}.mlp.layer_2.bias", torch.zeros_like),
        applies_to=applicability.has_all_biases,
        lossy=True,
    ),
    Mutation(
        "square output projection transposed both ways",
        "transpose",
        rf"{IN_LAYER}\.mixer",
        weights=_edit(f"{LAYER_PREFIX}.mixer.dense.weight", lambda w: w.t()),
        applies_to=applicability.has_square_output,
    ),
    Mutation("one layer loaded twice", "layer mapping", r"decoder\.3\.norm_1", weights=_layer_twice, lossy=True),
    Mutation("two layers swapped", "layer mapping", r"decoder\.1\.norm_1", weights=_layers_swapped),
    Mutation(
        "head taken from the embeddings",
        "tying",
        "logits",
        weights=_head_tied,
        applies_to=applicability.is_untied,
        lossy=True,
    ),
    Mutation(
        "head rows shifted by one",
        "vocabulary",
        "logits",
        weights=_edit("head.output_weights", lambda w: w.roll(1, 0)),
        applies_to=applicability.is_untied,
    ),
    Mutation(
        "last vocabulary rows lost to padding",
        "vocabulary",
        "logits",
        weights=_edit("head.output_weights", _last_rows_zero),
        applies_to=applicability.is_untied,
        lossy=True,
    ),
    Mutation(
        "last embedding row lost",
        "vocabulary",
        "embeddings",
        weights=_edit("embeddings.word_embeddings_weight", _last_rows_zero),
        lossy=True,
    ),
    Mutation(
        "embeddings scaled by sqrt(hidden)",
        "scale",
        "embeddings",
        weights=_edit("embeddings.word_embeddings_weight", lambda w: w * math.sqrt(w.shape[1])),
    ),
    Mutation("key-value heads reversed", "GQA grouping", rf"{IN_LAYER}\.mixer\.key", weights=_heads_reversed),
    Mutation(
        "query heads interleaved over groups",
        "GQA grouping",
        rf"{IN_LAYER}\.mixer\.query",
        weights=_query_heads_regrouped,
    ),
    Mutation("one query head negated", "sign", rf"{IN_LAYER}\.mixer\.query", weights=_one_head_negated),
    Mutation(
        "one row of the down projection lost",
        "lost rows",
        rf"{IN_LAYER}\.mlp",
        weights=_edit(f"{LAYER_PREFIX}.mlp.layer_2.weight", _first_row_zero),
        lossy=True,
    ),
    Mutation(
        "one weight matrix rounded to 5 bits",
        "precision of storage",
        rf"{IN_LAYER}\.mixer\.value",
        weights=_edit(f"{LAYER_PREFIX}.mixer.key_value.weight", _rounded),
        lossy=True,
    ),
    Mutation(
        "weights through bfloat16",
        "precision of storage",
        rf"{IN_LAYER}\.mixer",
        weights=_edit(f"{LAYER_PREFIX}.mixer.dense.weight", lambda w: w.bfloat16().float()),
        applies_to=applicability.is_named("float32"),
        lossy=True,
    ),
    Mutation(
        "two experts swapped without the router",
        "expert order",
        rf"{IN_LAYER}\.mlp",
        weights=_experts_swapped,
        applies_to=applicability.is_moe,
    ),
    Mutation(
        "router rows rotated without the experts",
        "expert order",
        rf"{IN_LAYER}\.mlp\.router_logits",
        weights=_edit(f"{LAYER_PREFIX}.mlp.router.weight", lambda w: w.roll(1, 0)),
        applies_to=applicability.is_moe,
    ),
    Mutation(
        "one expert lost",
        "lost expert",
        rf"{IN_LAYER}\.mlp",
        weights=_expert_lost,
        applies_to=applicability.is_moe,
        lossy=True,
    ),
    Mutation(
        "one expert loaded twice",
        "lost expert",
        rf"{IN_LAYER}\.mlp",
        weights=_expert_twice,
        applies_to=applicability.is_moe,
        lossy=True,
    ),
    Mutation(
        "w1 and w3 of one expert swapped",
        "gate/up order",
        rf"{IN_LAYER}\.mlp",
        weights=_expert_gate_up,
        applies_to=applicability.is_moe,
    ),
    Mutation(
        "norm weight multiplied into the wrong projection",
        "fusing",
        rf"{IN_LAYER}\.mixer\.query",
        weights=_edit(f"{LAYER_PREFIX}.mixer.query.weight", lambda w: w * 1.001),
    ),
)
"""Bugs in the tensors of a conversion."""
