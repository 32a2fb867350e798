"""Grouped-query attention in three implementations that share no arithmetic: eager, sdpa and blockwise.

Each takes query (B, T, heads, D), key and value (B, T, kv_heads, D) and returns (B, T, heads * D). Each adds itself to
the log `ran` when it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    Implementation = Callable[[Tensor, Tensor, Tensor, "AttentionMask", "ImplementationLog"], Tensor]

CHUNK: Final = 128
"""Queries and keys in one chunk of `blockwise`."""


@dataclass(frozen=True)
class AttentionMask:
    """The keys that a query attends to: none of another document, none after it, with a window none further back.

    Without `causal` it attends to the keys after it too.

    `documents` (B, T) numbers each row's documents; the padding before a row is a document of its own. None: each row
    is one document. Scores are divided by head_dim ** `scale_power`.
    """

    documents: Tensor | None = None
    window: int | None = None
    scale_power: float = 0.5
    causal: bool = True

    def compute_scale(self, head_dim: int) -> float:
        """Return the factor of the scores."""
        return float(head_dim**-self.scale_power)

    @property
    def is_causal_only(self) -> bool:
        """Whether the mask is causal and nothing else."""
        return self.documents is None and self.window is None and self.causal

    def to_matrix(self, queries: range, keys: range, device: torch.device) -> Tensor:
        """Return the mask (B or 1, 1, queries, keys).

        True where a query attends to a key.
        """
        query = torch.arange(queries.start, queries.stop, device=device)[:, None]
        key = torch.arange(keys.start, keys.stop, device=device)[None, :]
        allowed = (key <= query) | (not self.causal)
        if self.window is not None:
            allowed = allowed & (query - key < self.window)
        if self.documents is None:
            return allowed[None, None]
        query_document = self.documents[:, queries.start : queries.stop, None]
        key_document = self.documents[:, None, keys.start : keys.stop]
        return (allowed & (query_document == key_document))[:, None]


class ImplementationLog(dict[str, str]):
    """Axis → the implementation that executed. A second one on the same axis is joined as `first+second`."""

    def add(self, axis: str, name: str) -> None:
        """Add an implementation; each one calls this itself when it runs."""
        if name not in self.setdefault(axis, name).split("+"):
            self[axis] += f"+{name}"


def eager(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, ran: ImplementationLog) -> Tensor:
    """Compute softmax(QKᵀ / sqrt(D)) V with the whole matrix of scores.

    The softmax is in float32 at least.
    """
    ran.add("attention", "eager")
    length = query.shape[1]
    query, key, value = _split_heads(query, key, value)
    scores = query @ key.transpose(-1, -2) * mask.compute_scale(query.shape[-1])
    allowed = mask.to_matrix(range(length), range(length), query.device)
    scores = scores.masked_fill(~allowed, float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return _merge_heads(weights.to(value.dtype) @ value)


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, ran: ImplementationLog) -> Tensor:
    """Run PyTorch's fused attention; a mask matrix is built only where it is more than causal."""
    ran.add("attention", "sdpa")
    length = query.shape[1]
    causal = mask.is_causal_only
    matrix = None if causal else mask.to_matrix(range(length), range(length), query.device)
    query, key, value = _split_heads(query, key, value)
    scale = mask.compute_scale(query.shape[-1])
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=matrix, is_causal=causal, scale=scale)
    return _merge_heads(mixed)


def blockwise(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, ran: ImplementationLog) -> Tensor:
    """Compute an online softmax over chunks of keys, in float32 at least: https://arxiv.org/abs/1805.02867."""
    ran.add("attention", "blockwise")
    dtype = torch.promote_types(query.dtype, torch.float32)
    result_dtype, length = query.dtype, query.shape[1]
    query, key, value = _split_heads(query.to(dtype), key.to(dtype), value.to(dtype))
    starts = range(0, length, CHUNK)
    chunks = [_attend_chunk(query, key, value, mask, range(at, min(at + CHUNK, length))) for at in starts]
    return _merge_heads(torch.cat(chunks, dim=2).to(result_dtype))


def _attend_chunk(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, queries: range) -> Tensor:
    """Attend from one chunk of queries to every allowed chunk of keys, its own first: there each query sees itself."""
    chunk = query[:, :, queries.start : queries.stop] * mask.compute_scale(query.shape[-1])
    total, weighted = chunk.new_zeros(chunk.shape[:-1]), torch.zeros_like(chunk)
    highest = torch.full_like(total, float("-inf"))
    first = 0 if mask.window is None else max(0, queries.start - mask.window + 1)
    before = [*range(queries.start, first // CHUNK * CHUNK - 1, -CHUNK)]
    after = [] if mask.causal else [*range(queries.start + CHUNK, key.shape[2], CHUNK)]
    for begin in [*before, *after]:
        keys = range(begin, min(begin + CHUNK, key.shape[2]))
        scores = chunk @ key[:, :, keys.start : keys.stop].transpose(-1, -2)
        scores = scores.masked_fill(~mask.to_matrix(queries, keys, query.device), float("-inf"))
        new_highest = torch.maximum(highest, scores.amax(-1))
        shrink, weights = (highest - new_highest).exp(), (scores - new_highest[..., None]).exp()
        total = total * shrink + weights.sum(-1)
        weighted = weighted * shrink[..., None] + weights @ value[:, :, keys.start : keys.stop]
        highest = new_highest
    return weighted.div(total[..., None])


def _split_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each tensor as (B, heads, T, D).

    A key-value head is repeated for `heads / kv_heads` adjacent query heads.
    """
    group = query.shape[2] // key.shape[2]
    key, value = (tensor.repeat_interleave(group, dim=2) for tensor in (key, value))
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def _merge_heads(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2).flatten(2)


ATTENTION: Final[dict[str, Implementation]] = {"eager": eager, "sdpa": sdpa, "blockwise": blockwise}
"""The variants of the axis "attention", the default first."""
