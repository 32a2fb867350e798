"""Mistakes of precision alone: each computes the right function in float32, and rounds too often in low precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.mutation.injection import HEAD, Mutation, Patch
from benchmarks.mutation.locations import IN_LAYER, LAYER
from ci.subjects.reference.moe import Routing
from ci.subjects.reference.rope import compute_frequencies

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.mutation.tiny_models import TinyModel

MODEL, ATTENTION = "ci.subjects.reference.model", "ci.subjects.reference.attention"


def _is_low(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.bfloat16, torch.float16)


def _in_low_precision(wrong: Callable[..., Any]) -> Callable[[Any], Any]:
    """Replace a function by `wrong` where its first argument is in low precision."""
    return lambda right: lambda first, *rest: (wrong if _is_low(first) else right)(first, *rest)


# Norms: (hidden, weight, epsilon).


def _norm_throughout(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return weight * (hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + epsilon))


def _norm_mean_rounded(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    mean = hidden.float().pow(2).mean(-1, keepdim=True).to(hidden.dtype)
    return weight * (hidden.float() * torch.rsqrt(mean.float() + epsilon)).to(hidden.dtype)


def _norm_factor_rounded(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    factor = torch.rsqrt(hidden.float().pow(2).mean(-1, keepdim=True) + epsilon)
    return (weight.float() * (hidden.float() * factor.to(hidden.dtype).float())).to(hidden.dtype)


def _norm_squares_rounded(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Add the squares in groups of eight channels, each sum rounded."""
    partial = hidden.pow(2).view(*hidden.shape[:-1], -1, 8).sum(-1)
    total = torch.zeros_like(partial[..., 0])
    for part in partial.unbind(-1):
        total = total + part
    mean = (total.float() / hidden.shape[-1])[..., None]
    return weight * (hidden.float() * torch.rsqrt(mean + epsilon)).to(hidden.dtype)


def _norm_rounded_again(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Divide by the RMS of a rounded quotient: two roundings before the weight's."""
    root = (hidden.float().pow(2).mean(-1, keepdim=True) + epsilon).sqrt()
    halfway = (hidden.float() / root.sqrt()).to(hidden.dtype)
    return weight * (halfway.float() / root.sqrt()).to(hidden.dtype)


# Attention: (query, key, value, mask, ran).


def _attend(weigh: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    """Attend with weights (B, heads, T, T) made from masked, unscaled scores."""

    def run(query: Tensor, key: Tensor, value: Tensor, seen: Any, ran: Any) -> Tensor:
        ran.add("attention", "eager")
        group, length = query.shape[2] // key.shape[2], query.shape[1]
        key, value = (tensor.repeat_interleave(group, 2).transpose(1, 2) for tensor in (key, value))
        scores = query.transpose(1, 2) @ key.transpose(-1, -2)
        hidden = ~seen.to_matrix(range(length), range(length), query.device)
        weights = weigh(scores.masked_fill(hidden, float("-inf")), query.shape[-1])
        return (weights @ value).transpose(1, 2).flatten(2)

    return run


def _softmax_throughout(scores: Tensor, channels: int) -> Tensor:
    scores = scores * channels**-0.5
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


def _softmax_sum_accumulated(scores: Tensor, channels: int) -> Tensor:
    dtype = scores.dtype
    scores = (scores * channels**-0.5).float()
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    total = torch.zeros_like(weights[..., :1]).to(dtype)
    for part in weights.unbind(-1):
        total = total + part[..., None].to(dtype)
    return (weights / total.float()).to(dtype)


def _softmax_scale_rounded(scores: Tensor, channels: int) -> Tensor:
    scale = torch.tensor(channels**-0.5, dtype=scores.dtype)
    return (scores * scale).float().softmax(-1).to(scores.dtype)


def _softmax_base_rounded(scores: Tensor, channels: int) -> Tensor:
    """Take powers of two, with the logarithm's factor rounded."""
    factor = torch.tensor(channels**-0.5 * 1.4426950408889634).to(scores.dtype).float()
    scaled = scores.float() * factor
    powers = (scaled - scaled.amax(-1, keepdim=True)).exp2()
    return (powers / powers.sum(-1, keepdim=True)).to(scores.dtype)


def _weights_rounded_twice(scores: Tensor, channels: int) -> Tensor:
    """Round the exponentials, add them exactly, and round the quotients again."""
    dtype = scores.dtype
    scores = (scores * channels**-0.5).float()
    weights = (scores - scores.amax(-1, keepdim=True)).exp().to(dtype)
    total = weights.float().sum(-1, keepdim=True).to(dtype)
    return weights / total


def _context_accumulated(query: Tensor, key: Tensor, value: Tensor, seen: Any, ran: Any) -> Tensor:
    """Add the weighted values in chunks of four keys, each sum rounded."""
    total = None
    for start in range(0, key.shape[1], 4):
        chunk = torch.zeros_like(value)
        chunk[:, start : start + 4] = value[:, start : start + 4]
        part = _attend(lambda s, c: (s * c**-0.5).float().softmax(-1).to(s.dtype))(query, key, chunk, seen, ran)
        total = part if total is None else total + part
    assert total is not None
    return total


# RoPE: (rope, head_dim, positions, dtype).


def _tables(angles: Callable[[Tensor, Tensor, torch.dtype], Tensor]) -> Callable[[Any], Any]:
    def make(right: Any) -> Any:
        def run(rope: Any, head_dim: int, positions: Tensor, dtype: torch.dtype) -> Any:
            if dtype not in (torch.bfloat16, torch.float16):
                return right(rope, head_dim, positions, dtype)
            inverse, scale = compute_frequencies(rope, head_dim)
            turned = angles(positions[..., None, None], inverse, dtype)
            return (turned.cos() * scale).to(dtype), (turned.sin() * scale).to(dtype)

        return run

    return make


def _angles_rounded(positions: Tensor, inverse: Tensor, dtype: torch.dtype) -> Tensor:
    return (positions.float() * inverse).to(dtype).float()


def _frequencies_rounded(positions: Tensor, inverse: Tensor, dtype: torch.dtype) -> Tensor:
    return positions.float() * inverse.to(dtype).float()


def _angles_throughout(positions: Tensor, inverse: Tensor, dtype: torch.dtype) -> Tensor:
    return positions.to(dtype) * inverse.to(dtype)


# Routers: (tokens, weight, experts a token).


def _route(score: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> Callable[..., Routing]:
    def run(tokens: Tensor, router: Tensor, per_token: int) -> Routing:
        logits = torch.nn.functional.linear(tokens, router)
        scores, experts = score(logits, per_token)
        return Routing(logits, experts, scores)

    return run


def _route_throughout(logits: Tensor, per_token: int) -> tuple[Tensor, Tensor]:
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    experts = logits.topk(per_token, dim=-1).indices
    scores = (weights / weights.sum(-1, keepdim=True)).gather(-1, experts)
    return scores / scores.sum(-1, keepdim=True), experts


def _route_probabilities_rounded(logits: Tensor, per_token: int) -> tuple[Tensor, Tensor]:
    experts = logits.topk(per_token, dim=-1).indices
    scores = logits.float().softmax(-1).to(logits.dtype).gather(-1, experts)
    return (scores.float() / scores.float().sum(-1, keepdim=True)), experts


def _route_sum_rounded(logits: Tensor, per_token: int) -> tuple[Tensor, Tensor]:
    experts = logits.topk(per_token, dim=-1).indices
    scores = logits.float().softmax(-1).gather(-1, experts)
    return scores / scores.sum(-1, keepdim=True).to(logits.dtype).float(), experts


def _mutation(name: str, kind: str, location: str, *patches: Patch, experts: bool = False) -> Mutation:
    def has_experts(tiny_model: TinyModel) -> bool:
        return not experts or "num_local_experts" in tiny_model.config_changes

    return Mutation(name, kind, location, patches=patches, low_precision=True, applies_to=has_experts)


def _norm(wrong: Callable[..., Any], layer: int | None = None) -> Patch:
    return Patch(MODEL, "rms_norm", _in_low_precision(wrong), layer=layer)


def _softmax(weigh: Callable[[Tensor, int], Tensor], layer: int | None = None) -> Patch:
    return Patch(ATTENTION, "ATTENTION", _in_low_precision(_attend(weigh)), key="eager", layer=layer)


def _router(score: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> Patch:
    return Patch(MODEL, "route", _in_low_precision(_route(score)), layer=LAYER)


ANY = r"decoder\.\d"
NORM, CONTEXT = rf"{ANY}\.norm_[12]", rf"{ANY}\.mixer\.context"
ROPE, SCORES = rf"{ANY}\.mixer\.(query|key)", rf"{IN_LAYER}\.mlp\.router_scores"
PRECISION_MUTATIONS: tuple[Mutation, ...] = (
    _mutation("norm in low precision throughout", "norm", NORM, _norm(_norm_throughout)),
    _mutation("mean of squares rounded", "norm", NORM, _norm(_norm_mean_rounded)),
    _mutation("inverse RMS rounded", "norm", NORM, _norm(_norm_factor_rounded)),
    _mutation("squares accumulated in low precision", "norm", NORM, _norm(_norm_squares_rounded)),
    _mutation("norm rounded once more", "norm", NORM, _norm(_norm_rounded_again)),
    _mutation("final norm in low precision", "norm", "final_norm", _norm(_norm_throughout, HEAD)),
    _mutation("softmax in low precision throughout", "softmax", CONTEXT, _softmax(_softmax_throughout)),
    _mutation("softmax's sum accumulated in low precision", "softmax", CONTEXT, _softmax(_softmax_sum_accumulated)),
    _mutation("exponentials and probabilities rounded", "softmax", CONTEXT, _softmax(_weights_rounded_twice)),
    _mutation("softmax scale rounded", "softmax scale", CONTEXT, _softmax(_softmax_scale_rounded)),
    _mutation("factor of base two rounded", "softmax scale", CONTEXT, _softmax(_softmax_base_rounded)),
    _mutation(
        "context accumulated in low precision",
        "accumulation",
        CONTEXT,
        Patch(ATTENTION, "ATTENTION", _in_low_precision(_context_accumulated), key="eager"),
    ),
    _mutation("RoPE angles rounded", "RoPE", ROPE, Patch(MODEL, "rotary_tables", _tables(_angles_rounded))),
    _mutation("RoPE frequencies rounded", "RoPE", ROPE, Patch(MODEL, "rotary_tables", _tables(_frequencies_rounded))),
    _mutation(
        "RoPE in low precision throughout", "RoPE", ROPE, Patch(MODEL, "rotary_tables", _tables(_angles_throughout))
    ),
    _mutation("router's softmax in low precision", "router", SCORES, _router(_route_throughout), experts=True),
    _mutation("router's probabilities rounded", "router", SCORES, _router(_route_probabilities_rounded), experts=True),
    _mutation("router's sum rounded", "router", SCORES, _router(_route_sum_rounded), experts=True),
)
"""Each is right in float32. Those of the router and of the final norm are in one place, the others in every layer."""


# Right implementations that round elsewhere than Hugging Face.


def _norm_cast_last(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    factor = torch.rsqrt(hidden.float().pow(2).mean(-1, keepdim=True) + epsilon)
    return (weight.float() * hidden.float() * factor).to(hidden.dtype)


def _attend_fused(query: Tensor, key: Tensor, value: Tensor, seen: Any, ran: Any) -> Tensor:
    """Round exponentials and divide the float32 product by their float32 sum, as FlashAttention does."""
    dtype, totals = query.dtype, []

    def weigh(scores: Tensor, channels: int) -> Tensor:
        scores = scores * channels**-0.5
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        totals.append(weights.sum(-1).transpose(1, 2))
        return weights.to(dtype).float()

    mixed = _attend(weigh)(query.float(), key.float(), value.float(), seen, ran)
    return (mixed.view(query.shape) / totals[0][..., None]).flatten(2).to(dtype)


def _add_partial_sums(tensor: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply in four parts, each rounded, and add them in float32: tensor parallelism of four."""
    parts = zip(tensor.chunk(4, -1), weight.chunk(4, -1), strict=True)
    total = torch.stack([torch.nn.functional.linear(*part).float() for part in parts]).sum(0)
    return (total if bias is None else total + bias.float()).to(tensor.dtype)


def _rotate_in_float32(tensor: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    (first, second), cos, sin = tensor.float().chunk(2, dim=-1), cos.float(), sin.float()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(tensor.dtype)


RIGHT_VARIANTS: tuple[Mutation, ...] = (
    _mutation("norm cast after its weight", "right", "", _norm(_norm_cast_last)),
    _mutation(
        *("exponentials rounded, divided in float32", "right", ""),
        Patch(ATTENTION, "ATTENTION", _in_low_precision(_attend_fused), key="eager"),
    ),
    _mutation("partial sums", "right", "", Patch(MODEL, "linear", _in_low_precision(_add_partial_sums))),
    _mutation("RoPE in float32", "right", "", Patch(MODEL, "apply_rotary", _in_low_precision(_rotate_in_float32))),
)
"""Controls: the lens must not alarm."""
