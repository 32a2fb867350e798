"""Synthetic operations for the precision lens: a float64 trace of one block, and the same in low precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    Norm = Callable[[Tensor, Tensor], Tensor]

B, T, HIDDEN, HEADS, GROUPS, D, EXPERTS = 4, 48, 64, 4, 2, 12, 6
EPSILON = 1e-5
KEEP = torch.ones(B, T, dtype=torch.bool)
CONFIG = {"rms_norm_eps": EPSILON, "hidden_size": HIDDEN}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Normal numbers that `dtype` holds exactly, as float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).double()


def normalize(tensor: Tensor) -> Tensor:
    return tensor * torch.rsqrt(tensor.pow(2).mean(-1, keepdim=True) + EPSILON)


def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float = D**-0.5) -> Tensor:
    """Causal attention over (B, T, heads, D); returns (B, T, heads * D)."""
    group = query.shape[2] // key.shape[2]
    key, value = key.repeat_interleave(group, 2), value.repeat_interleave(group, 2)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * scale
    seen = torch.ones(T, T, dtype=torch.bool).tril()
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2)


def exact_block() -> dict[str, Tensor]:
    """Embeddings, one block and the final norm in float64: what a float64 run would write."""
    tensors = {"embeddings": draw(B, T, HIDDEN), "decoder.0.mixer": draw(B, T, HIDDEN, seed=1)}
    tensors["decoder.0.norm_1"] = draw(HIDDEN, seed=2) * normalize(tensors["embeddings"])
    for number, (name, heads) in enumerate((("query", HEADS), ("key", GROUPS), ("value", GROUPS))):
        tensors[f"decoder.0.mixer.{name}"] = draw(B, T, heads, D, seed=3 + number)
    tensors["decoder.0.mixer.context"] = attend(*(tensors[f"decoder.0.mixer.{n}"] for n in ("query", "key", "value")))
    tensors["decoder.0.mixer_residual"] = tensors["embeddings"] + tensors["decoder.0.mixer"]
    tensors["decoder.0.norm_2"] = draw(HIDDEN, seed=6) * normalize(tensors["decoder.0.mixer_residual"])
    tensors["decoder.0.mlp.router_logits"] = draw(B, T, EXPERTS, seed=7)
    scores, experts = tensors["decoder.0.mlp.router_logits"].softmax(-1).topk(2)
    tensors |= {"decoder.0.mlp.router_top_experts": experts}
    tensors |= {"decoder.0.mlp.router_scores": scores / scores.sum(-1, keepdim=True)}
    tensors["decoder.0.mlp"] = draw(B, T, HIDDEN, seed=8)
    tensors["decoder.0"] = tensors["decoder.0.mixer_residual"] + tensors["decoder.0.mlp"]
    tensors["final_norm"] = draw(HIDDEN, seed=9) * normalize(tensors["decoder.0"])
    return tensors | {"logits": draw(B, T, 5, seed=10)}
