"""Rewrites that compute the same function in another way: controls that must stay green, and near misses that must not.

torchtitan and litgpt permute query and key for interleaved RoPE, FlashAttention takes its softmax scale as an argument,
TransformerLens folds norms into projections, fused kernels reorder heads and channels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.mutation.injection import Mutation, Patch, Weights
from benchmarks.mutation.locations import IN_LAYER_0

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.subjects.reference.config import Architecture, Attention

    EditAttention = Callable[[Weights, str, Attention], None]

MODEL, ATTENTION = "ci.subjects.reference.model", "ci.subjects.reference.attention"


def _in_every_block(edit: EditAttention) -> Callable[[Weights, Architecture], None]:
    """Edit the attention of every block, in float32: a folded factor is not a bfloat16 number."""

    def edit_all(weights: Weights, architecture: Architecture) -> None:
        for name in weights:
            weights[name] = weights[name].float()
        for index, block in enumerate(architecture.blocks):
            edit(weights, f"decoder.{index}.mixer", block.attention)

    return edit_all


def _change_rows(weights: Weights, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Change the output rows of a projection (rows, hidden) and of its bias (rows,)."""
    for kind in ("weight", "bias"):
        if f"{name}.{kind}" in weights:
            weights[f"{name}.{kind}"] = change(weights[f"{name}.{kind}"])


def _by_head(heads: int, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply a change to (heads, channels, …)."""
    return lambda rows: change(rows.reshape(heads, -1, *rows.shape[1:])).flatten(0, 1)


def _key_rows(attention: Attention, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply a change to the key's (heads, channels, …) of the stacked key and value."""

    def apply(rows: Tensor) -> Tensor:
        key, value = rows.chunk(2)
        return torch.cat([_by_head(attention.kv_heads, change)(key), value])

    return apply


def _value_rows(attention: Attention, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def apply(rows: Tensor) -> Tensor:
        key, value = rows.chunk(2)
        return torch.cat([key, _by_head(attention.kv_heads, change)(value)])

    return apply


def _interleave(channels: int) -> Tensor:
    """Return 0, d/2, 1, d/2 + 1, …: pairs of RoPE side by side."""
    return torch.arange(channels).view(2, -1).T.flatten()


def _permute_query_key(weights: Weights, name: str, attention: Attention) -> None:
    order = _interleave(attention.head_dim)
    _change_rows(weights, f"{name}.query", _by_head(attention.heads, lambda t: t[:, order]))
    _change_rows(weights, f"{name}.key_value", _key_rows(attention, lambda t: t[:, order]))


def _rotate_interleaved(_: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """RoPE over neighbouring channels, as in the original Llama code."""

    def rotate(tensor: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = tensor[..., 0::2], tensor[..., 1::2]
        return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)

    return rotate


INTERLEAVED = (Patch(MODEL, "apply_rotary", _rotate_interleaved),)


def _without_softmax_scale(attention: Any) -> Any:
    return lambda q, k, v, seen, ran: attention(q * math.sqrt(q.shape[-1]), k, v, seen, ran)


UNSCALED = tuple(Patch(ATTENTION, "ATTENTION", _without_softmax_scale, key=name) for name in ("eager", "sdpa"))
"""An attention whose softmax scale is 1: the weights carry it."""


def _scale_query(weights: Weights, name: str, attention: Attention) -> None:
    _change_rows(weights, f"{name}.query", lambda t: t / math.sqrt(attention.head_dim))


def _scale_key(weights: Weights, name: str, attention: Attention) -> None:
    _change_rows(weights, f"{name}.key_value", _key_rows(attention, lambda t: t / math.sqrt(attention.head_dim)))


def _scale_both(weights: Weights, name: str, attention: Attention) -> None:
    root = attention.head_dim**-0.25
    _change_rows(weights, f"{name}.query", lambda t: t * root)
    _change_rows(weights, f"{name}.key_value", _key_rows(attention, lambda t: t * root))


def _move_scale_to_key(weights: Weights, name: str, attention: Attention) -> None:
    _change_rows(weights, f"{name}.query", lambda t: t / 4)
    _change_rows(weights, f"{name}.key_value", _key_rows(attention, lambda t: t * 4))


def _negate_query_key(weights: Weights, name: str, attention: Attention) -> None:
    _change_rows(weights, f"{name}.query", lambda t: -t)
    _change_rows(weights, f"{name}.key_value", _key_rows(attention, lambda t: -t))


def _move_scale_to_output(weights: Weights, name: str, attention: Attention) -> None:
    _change_rows(weights, f"{name}.key_value", _value_rows(attention, lambda t: t * 8))
    weights[f"{name}.dense.weight"] = weights[f"{name}.dense.weight"] / 8


def _columns(weights: Weights, name: str, heads: int, change: Callable[[Tensor], Tensor]) -> None:
    """Change the input columns of the output projection as (heads, channels, hidden)."""
    weight = weights[f"{name}.dense.weight"]
    weights[f"{name}.dense.weight"] = _by_head(heads, change)(weight.T).T


def _reverse_value_channels(weights: Weights, name: str, attention: Attention) -> None:
    _change_rows(weights, f"{name}.key_value", _value_rows(attention, lambda t: t.flip(1)))
    _columns(weights, name, attention.heads, lambda t: t.flip(1))


def _reverse_heads(weights: Weights, name: str, attention: Attention) -> None:
    _change_rows(weights, f"{name}.query", _by_head(attention.heads, lambda t: t.flip(0)))
    _change_rows(weights, f"{name}.key_value", _key_rows(attention, lambda t: t.flip(0)))
    _change_rows(weights, f"{name}.key_value", _value_rows(attention, lambda t: t.flip(0)))
    _columns(weights, name, attention.heads, lambda t: t.flip(0))


def _reverse_heads_in_groups(weights: Weights, name: str, attention: Attention) -> None:
    """Reverse the query heads that share a key: no key or value moves."""

    def reverse(heads: Tensor) -> Tensor:
        return heads.reshape(attention.kv_heads, -1, *heads.shape[1:]).flip(1).flatten(0, 1)

    _change_rows(weights, f"{name}.query", _by_head(attention.heads, reverse))
    _columns(weights, name, attention.heads, reverse)


def _fold_norm(norm: str, projections: tuple[str, ...]) -> Callable[[Weights, Architecture], None]:
    """Multiply the columns of the projections behind a norm by its weight, which becomes one."""

    def edit(weights: Weights, architecture: Architecture) -> None:
        for name in weights:
            weights[name] = weights[name].float()
        for index in range(len(architecture.blocks)):
            scale = weights[f"decoder.{index}.{norm}.weight"]
            for projection in projections:
                if (name := f"decoder.{index}.{projection}.weight") in weights:
                    weights[name] = weights[name] * scale
            weights[f"decoder.{index}.{norm}.weight"] = torch.ones_like(scale)

    return edit


def _fold_final_norm(weights: Weights, architecture: Architecture) -> None:
    if architecture.tied:
        return
    scale = weights["head.final_norm.weight"].float()
    weights["head.output_weights"] = weights["head.output_weights"].float() * scale
    weights["head.final_norm.weight"] = torch.ones_like(scale)


def _rewrite(name: str, edit: Any, patches: tuple[Patch, ...] = ()) -> Mutation:
    return Mutation(name, "equal rewrite", "", weights=edit, patches=patches)


EQUAL_REWRITES: tuple[Mutation, ...] = (
    _rewrite("interleaved RoPE", _in_every_block(_permute_query_key), INTERLEAVED),
    _rewrite("softmax scale in the query", _in_every_block(_scale_query), UNSCALED),
    _rewrite("softmax scale in the key", _in_every_block(_scale_key), UNSCALED),
    _rewrite("softmax scale in both", _in_every_block(_scale_both), UNSCALED),
    _rewrite("a factor moved from query to key", _in_every_block(_move_scale_to_key)),
    _rewrite("query and key negated", _in_every_block(_negate_query_key)),
    _rewrite("a factor moved from output to value", _in_every_block(_move_scale_to_output)),
    _rewrite("value channels reversed", _in_every_block(_reverse_value_channels)),
    _rewrite("heads reversed", _in_every_block(_reverse_heads)),
    _rewrite("heads reversed within groups", _in_every_block(_reverse_heads_in_groups)),
    _rewrite("first norm folded", _fold_norm("norm_1", ("mixer.query", "mixer.key_value"))),
    _rewrite("second norm folded", _fold_norm("norm_2", ("mlp.layer_1", "mlp.router"))),
    _rewrite("final norm folded", _fold_final_norm),
)
"""Each computes what Hugging Face computes."""
EXACT_IN_LOW_PRECISION = frozenset(
    {
        "interleaved RoPE",
        "a factor moved from query to key",
        "query and key negated",
        "a factor moved from output to value",
        "value channels reversed",
        "heads reversed",
        "heads reversed within groups",
    }
)
"""Rewrites by orders, signs and powers of two: no weight is rounded anew, so they are equal in each dtype."""


def _permute_query_alone(weights: Weights, name: str, attention: Attention) -> None:
    order = _interleave(attention.head_dim)
    _change_rows(weights, f"{name}.query", _by_head(attention.heads, lambda t: t[:, order]))


def _permute_key_otherwise(weights: Weights, name: str, attention: Attention) -> None:
    _permute_query_alone(weights, name, attention)
    _change_rows(weights, f"{name}.key_value", _key_rows(attention, lambda t: t.flip(1)))


def _swap_two_query_heads(weights: Weights, name: str, attention: Attention) -> None:
    """Swap two heads of the query and not the columns of the output projection."""
    order = torch.tensor([1, 0, *range(2, attention.heads)])
    _change_rows(weights, f"{name}.query", _by_head(attention.heads, lambda t: t[order]))


def _swap_value_channels(weights: Weights, name: str, attention: Attention) -> None:
    _change_rows(weights, f"{name}.key_value", _value_rows(attention, lambda t: t.flip(1)))


def _near_miss(name: str, edit: EditAttention, patches: tuple[Patch, ...] = ()) -> Mutation:
    return Mutation(name, "wrong rewrite", rf"{IN_LAYER_0}\..*", weights=_in_every_block(edit), patches=patches)


NEAR_MISSES: tuple[Mutation, ...] = (
    _near_miss("query permuted, key not", _permute_query_alone),
    _near_miss("query and key permuted differently", _permute_key_otherwise),
    _near_miss("weights interleaved, RoPE not", _permute_query_key),
    _near_miss("RoPE interleaved, weights not", lambda *_: None, INTERLEAVED),
    _near_miss("softmax scale twice", _scale_query),
    _near_miss("softmax scale not at all", lambda *_: None, UNSCALED),
    _near_miss("two query heads swapped, output not", _swap_two_query_heads),
    _near_miss("value channels reversed, output not", _swap_value_channels),
)
"""Each is an equal rewrite done by half."""
