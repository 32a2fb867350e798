"""Kernel bugs: norms, RoPE, attention, routing, experts and head that compute something else on right weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, sigmoid

from benchmarks.mutation import applicability
from benchmarks.mutation.injection import HEAD, Mutation, Patch
from benchmarks.mutation.locations import IN_LAYER, IN_LAYER_0, LAYER
from ci.subjects.reference.attention import AttentionMask
from ci.subjects.reference.moe import Routing

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL, ATTENTION, MOE = "ci.subjects.reference.model", "ci.subjects.reference.attention", "ci.subjects.reference.moe"


def _norm(make: Callable[[Any], Any], layer: int | None = None) -> tuple[Patch, ...]:
    return (Patch(MODEL, "rms_norm", make, layer=layer),)


def _attention(make: Callable[[Any], Any], layer: int | None = None, variant: str = "eager") -> tuple[Patch, ...]:
    return (Patch(ATTENTION, "ATTENTION", make, key=variant, layer=layer),)


def _route(change: Callable[[Routing], Routing]) -> tuple[Patch, ...]:
    return (Patch(MODEL, "route", lambda route: lambda *args: change(route(*args)), layer=LAYER),)


def _epsilon_outside(_: Any) -> Any:
    def norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        return weight * (wide / (wide.pow(2).mean(-1, keepdim=True).sqrt() + epsilon)).to(hidden.dtype)

    return norm


def _query_times(factor: float) -> Callable[[Any], Any]:
    return lambda attention: lambda q, k, v, seen, ran: attention(q * factor, k, v, seen, ran)


def _seen(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda attention: lambda q, k, v, seen, ran: attention(q, k, v, change(seen), ran)


class _NextSeen(AttentionMask):
    """A causal mask that is off by one."""

    @classmethod
    def of(cls, right: AttentionMask) -> _NextSeen:
        return cls(right.documents, right.window)

    def to_matrix(self, queries: range, keys: range, device: torch.device) -> Tensor:
        seen = super().to_matrix(queries, keys, device)
        after = torch.arange(keys.start, keys.stop)[None, :] == torch.arange(queries.start, queries.stop)[:, None] + 1
        return seen | after.to(device)


class _AllSeen(AttentionMask):
    """No mask but the documents'."""

    @classmethod
    def of(cls, right: AttentionMask) -> _AllSeen:
        return cls(right.documents, right.window)

    @property
    def is_causal_only(self) -> bool:
        return False

    def to_matrix(self, queries: range, keys: range, device: torch.device) -> Tensor:
        return torch.ones_like(super().to_matrix(queries, keys, device))


def _repeated(attention: Any) -> Any:
    def run(query: Tensor, key: Tensor, value: Tensor, seen: AttentionMask, ran: Any) -> Any:
        group = query.shape[2] // key.shape[2]
        return attention(query, key.repeat(1, 1, group, 1), value.repeat(1, 1, group, 1), seen, ran)

    return run


def _heads_out_reversed(attention: Any) -> Any:
    def run(query: Tensor, *rest: Any) -> Any:
        mixed = attention(query, *rest)
        return mixed.reshape(*query.shape[:3], -1).flip(2).flatten(2)

    return run


def _capped(_: Any) -> Any:
    def run(query: Tensor, key: Tensor, value: Tensor, seen: AttentionMask, ran: Any) -> Tensor:
        ran.add("attention", "eager")
        group, length = query.shape[2] // key.shape[2], query.shape[1]
        key, value = key.repeat_interleave(group, 2), value.repeat_interleave(group, 2)
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
        scores = 5 * torch.tanh(scores / 5)
        scores = scores.masked_fill(~seen.to_matrix(range(length), range(length), query.device), float("-inf"))
        weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
        return torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2)

    return run


def _first_tile_lost(attention: Any) -> Any:
    def run(query: Tensor, key: Tensor, value: Tensor, seen: AttentionMask, ran: Any) -> Any:
        right = attention(query, key, value, seen, ran)
        if query.shape[1] <= 256:
            return right
        late = attention(query[:, 128:], key[:, 128:], value[:, 128:], AttentionMask(None, seen.window), ran)
        return torch.cat([right[:, :256], late[:, 128:]], dim=1)

    return run


def _turned_pairs(tensor: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = tensor[..., ::2], tensor[..., 1::2]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)


def _one_nan(linear: Any) -> Any:
    def run(*args: Any) -> Any:
        logits = linear(*args).clone()
        logits[0, -1, 3] = math.nan
        return logits

    return run


def _third(routing: Routing) -> Routing:
    ranked = routing.logits.topk(routing.experts.shape[-1] + 1, dim=-1).indices
    experts = torch.cat([ranked[..., :-2], ranked[..., -1:]], dim=-1)
    scores = routing.logits.softmax(-1).gather(-1, experts).to(routing.scores.dtype)
    return Routing(routing.logits, experts, scores / scores.sum(-1, keepdim=True))


def _dropping(dropless: Any) -> Any:
    """Drop the last token of the expert that has the most."""

    def run(tokens: Tensor, routing: Routing, experts: Any, ran: Any) -> Any:
        fullest = int(routing.experts.flatten().bincount().argmax())
        token, slot = (routing.experts == fullest).nonzero()[-1].tolist()
        scores = routing.scores.clone()
        scores[token, slot] = 0
        return dropless(tokens, replace(routing, scores=scores), experts, ran)

    return run


def _low_tables(tables: Any) -> Any:
    def run(rope: Any, head_dim: int, positions: Tensor, dtype: torch.dtype) -> Any:
        if dtype != torch.bfloat16:
            return tables(rope, head_dim, positions, dtype)
        from ci.subjects.reference.rope import compute_frequencies

        inverse, scale = compute_frequencies(rope, head_dim)
        angles = positions[..., None, None].to(dtype) * inverse.to(dtype)
        return angles.cos() * scale, angles.sin() * scale

    return run


def _low_softmax(attention: Any) -> Any:
    def run(query: Tensor, key: Tensor, value: Tensor, seen: AttentionMask, ran: Any) -> Any:
        if query.dtype != torch.bfloat16:
            return attention(query, key, value, seen, ran)
        coarse = (tensor.to(torch.float8_e4m3fn).to(query.dtype) for tensor in (query, key, value))
        return attention(*coarse, seen, ran)

    return run


def _low_norm(norm: Any) -> Any:
    def run(hidden: Tensor, weight: Tensor, epsilon: float) -> Any:
        if hidden.dtype != torch.bfloat16:
            return norm(hidden, weight, epsilon)
        total = torch.zeros_like(hidden[..., 0])
        for channel in hidden.unbind(-1):
            total = total + channel * channel
        return weight * (hidden * torch.rsqrt(total / hidden.shape[-1] + epsilon)[..., None])

    return run


CONTEXT_IN_LAYER_0, CONTEXT_IN_LAYER = rf"{IN_LAYER_0}\.mixer\.context", rf"{IN_LAYER}\.mixer\.context"
KERNELS: tuple[Mutation, ...] = (
    Mutation(
        "norm ignores epsilon",
        "norm epsilon",
        rf"{IN_LAYER_0}\.norm_1",
        patches=_norm(lambda norm: lambda h, w, _: norm(h, w, 0.0)),
        hf_targets=("norm",),
    ),
    Mutation(
        "epsilon added to the root",
        "norm epsilon",
        rf"{IN_LAYER_0}\.norm_1",
        patches=_norm(_epsilon_outside),
        hf_targets=("norm",),
    ),
    Mutation(
        "norm subtracts the mean",
        "norm",
        rf"{IN_LAYER}\.norm_1",
        patches=_norm(lambda norm: lambda h, w, e: norm(h - h.mean(-1, keepdim=True), w, e), LAYER),
        hf_targets=("norm",),
    ),
    Mutation(
        "final norm skipped",
        "norm",
        "final_norm",
        patches=_norm(lambda _: lambda h, *__: h, HEAD),
        hf_targets=("norm",),
    ),
    Mutation(
        "softmax scaled by 1/sqrt(hidden)",
        "softmax scale",
        CONTEXT_IN_LAYER,
        patches=_attention(_query_times(0.45), LAYER),
        hf_targets=("attention",),
    ),
    Mutation(
        "softmax scale applied twice",
        "softmax scale",
        CONTEXT_IN_LAYER_0,
        patches=_attention(_query_times(0.3)),
        hf_targets=("attention",),
    ),
    Mutation(
        "scores capped by tanh",
        "softcap",
        CONTEXT_IN_LAYER,
        patches=_attention(_capped, LAYER),
        hf_targets=("attention",),
    ),
    Mutation(
        "kernel's window one too long",
        "sliding window",
        CONTEXT_IN_LAYER_0,
        patches=_attention(_seen(lambda v: replace(v, window=v.window + 1))),
        hf_targets=("attention",),
        applies_to=applicability.has_window,
    ),
    Mutation(
        "kernel ignores the window",
        "sliding window",
        CONTEXT_IN_LAYER_0,
        patches=_attention(_seen(lambda v: replace(v, window=None))),
        hf_targets=("attention",),
        applies_to=applicability.has_window,
    ),
    Mutation(
        "mask shows the next token",
        "causal mask",
        CONTEXT_IN_LAYER,
        patches=_attention(_seen(_NextSeen.of), LAYER),
        hf_targets=("attention",),
    ),
    Mutation(
        "padding is attended to",
        "document boundaries",
        CONTEXT_IN_LAYER_0,
        patches=_attention(_seen(lambda v: replace(v, documents=None))),
        hf_targets=("attention",),
    ),
    Mutation(
        "key-value heads repeated, not interleaved",
        "GQA grouping",
        CONTEXT_IN_LAYER,
        patches=_attention(_repeated, LAYER),
        hf_targets=("attention",),
    ),
    Mutation(
        "output heads in reverse",
        "GQA grouping",
        CONTEXT_IN_LAYER,
        patches=_attention(_heads_out_reversed, LAYER),
        hf_targets=("attention",),
    ),
    Mutation(
        "RoPE turns neighbouring pairs",
        "RoPE layout",
        rf"{IN_LAYER_0}\.mixer\.query",
        patches=(Patch(MODEL, "apply_rotary", lambda _: _turned_pairs),),
        hf_targets=("rope",),
    ),
    Mutation(
        "RoPE turns backwards",
        "RoPE",
        rf"{IN_LAYER_0}\.mixer\.query",
        patches=(Patch(MODEL, "apply_rotary", lambda rotate: lambda t, c, s: rotate(t, c, -s)),),
        hf_targets=("rope",),
    ),
    Mutation(
        "RoPE skipped in one layer",
        "RoPE",
        rf"{IN_LAYER}\.mixer\.query",
        patches=(Patch(MODEL, "apply_rotary", lambda _: lambda t, *__: t, layer=LAYER),),
        hf_targets=("rope",),
    ),
    Mutation(
        "RoPE table ends at 128 positions",
        "RoPE",
        rf"{IN_LAYER_0}\.mixer\.query",
        patches=(Patch(MODEL, "rotary_tables", lambda tables: lambda r, d, p, t: tables(r, d, p.clamp(max=128), t)),),
        hf_targets=("rope",),
    ),
    Mutation(
        "biases of one layer ignored",
        "lost bias",
        rf"{IN_LAYER}\.mixer\.query",
        patches=(Patch(MODEL, "linear", lambda linear: lambda x, w, _=None: linear(x, w), layer=LAYER),),
        hf_targets=("linear",),
        applies_to=applicability.has_query_bias,
    ),
    Mutation(
        "logits capped by tanh",
        "softcap",
        "logits",
        patches=(
            Patch(
                MODEL,
                "linear",
                lambda linear: lambda x, w, b=None: 30 * torch.tanh(linear(x, w, b) / 30),
                layer=HEAD,
            ),
        ),
        hf_targets=("head",),
    ),
    Mutation(
        "one logit is NaN",
        "non-finite",
        "logits",
        patches=(Patch(MODEL, "linear", _one_nan, layer=HEAD),),
        hf_targets=("head",),
    ),
    Mutation(
        "activation is a sigmoid approximation",
        "activation",
        rf"{IN_LAYER_0}\.mlp",
        patches=(Patch(MODEL, "ACTIVATIONS", lambda _: lambda x: x * sigmoid(1.02 * x), key="silu"),),
        hf_targets=("activation",),
    ),
    Mutation(
        "activation is gelu",
        "activation",
        rf"{IN_LAYER_0}\.mlp",
        patches=(Patch(MODEL, "ACTIVATIONS", lambda _: gelu, key="silu"),),
        hf_targets=("activation",),
    ),
    Mutation(
        "router scores not normalised",
        "router",
        rf"{IN_LAYER}\.mlp\.router_scores",
        patches=_route(
            lambda r: replace(r, scores=r.scores * r.logits.softmax(-1).gather(-1, r.experts).sum(-1, keepdim=True))
        ),
        hf_targets=("route",),
        applies_to=applicability.is_moe,
    ),
    Mutation(
        "router scores in reverse",
        "router",
        rf"{IN_LAYER}\.mlp\.router_scores",
        patches=_route(lambda r: replace(r, scores=r.scores.flip(-1))),
        hf_targets=("route",),
        applies_to=applicability.is_moe,
    ),
    Mutation(
        "second choice replaced by the third",
        "router",
        rf"{IN_LAYER}\.mlp\.router_top_experts",
        patches=_route(_third),
        hf_targets=("route",),
        applies_to=applicability.is_moe,
    ),
    Mutation(
        "experts' answers not weighted",
        "router",
        rf"{IN_LAYER}\.mlp",
        patches=(
            Patch(
                MOE,
                "MOE",
                lambda moe: lambda t, r, e, ran: moe(t, replace(r, scores=torch.ones_like(r.scores)), e, ran),
                key="looped",
                layer=LAYER,
            ),
        ),
        hf_targets=("moe",),
        applies_to=applicability.is_moe,
    ),
    Mutation(
        "dropless drops a token over capacity",
        "kernel variant",
        rf"{IN_LAYER_0}\.mlp",
        patches=(Patch(MOE, "MOE", _dropping, key="dropless"),),
        hf_targets=("moe",),
        applies_to=applicability.is_moe,
        variant={"moe": "dropless"},
    ),
    Mutation(
        "sdpa forgets causality",
        "kernel variant",
        CONTEXT_IN_LAYER_0,
        patches=_attention(_seen(_AllSeen.of), variant="sdpa"),
        hf_targets=("attention",),
        variant={"attention": "sdpa"},
    ),
    Mutation(
        "blockwise loses its first tile",
        "kernel variant",
        CONTEXT_IN_LAYER_0,
        patches=_attention(_first_tile_lost, variant="blockwise"),
        hf_targets=("attention",),
        variant={"attention": "blockwise"},
        applies_to=applicability.has_no_window,
    ),
)
"""Bugs of the forward pass."""


QUERY_IN_LAYER_0, NORM_IN_LAYER_0 = rf"{IN_LAYER_0}\.mixer\.query", rf"{IN_LAYER_0}\.norm_1"
CASTS: tuple[Mutation, ...] = (
    Mutation(
        "RoPE tables computed in low precision",
        "cast order",
        QUERY_IN_LAYER_0,
        patches=(Patch(MODEL, "rotary_tables", _low_tables),),
        hf_targets=("rope",),
        low_precision=True,
    ),
    Mutation(
        "scores and softmax rounded to 4 bits",
        "cast order",
        CONTEXT_IN_LAYER_0,
        patches=_attention(_low_softmax),
        hf_targets=("attention",),
        low_precision=True,
    ),
    Mutation(
        "norm accumulated in low precision",
        "cast order",
        NORM_IN_LAYER_0,
        patches=_norm(_low_norm),
        hf_targets=("norm",),
        low_precision=True,
    ),
)
"""Bugs that only low precision shows."""
