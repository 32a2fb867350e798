"""Grouped-query attention in three ways that share no arithmetic: eager, sdpa and blockwise.

Each takes query (B, T, heads, D), key and value (B, T, kv_heads, D) and answers (B, T, heads * D). Each notes in
`ran` that it ran, where it does its work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    Implementation = Callable[[Tensor, Tensor, Tensor, "Visibility", "Ran"], Tensor]

CHUNK: Final = 128
"""Queries and keys that `blockwise` takes at a time."""


@dataclass(frozen=True)
class Visibility:
    """Which keys a query sees: no later one, none of another document, with a window none further back.

    `documents` (B, T) numbers each row's documents (the padding before a row is one of its own); None: one a row.
    """

    documents: Tensor | None = None
    window: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether causality is all there is to it."""
        return self.documents is None and self.window is None

    def mask(self, queries: range, keys: range, device: torch.device) -> Tensor:
        """True where seen: (B or 1, 1, queries, keys)."""
        query = torch.arange(queries.start, queries.stop, device=device)[:, None]
        key = torch.arange(keys.start, keys.stop, device=device)[None, :]
        seen = key <= query
        if self.window is not None:
            seen = seen & (query - key < self.window)
        if self.documents is None:
            return seen[None, None]
        of_query = self.documents[:, queries.start : queries.stop, None]
        of_key = self.documents[:, None, keys.start : keys.stop]
        return (seen & (of_query == of_key))[:, None]


class Ran(dict[str, str]):
    """Axis → the implementation that executed. A second one on the same axis shows as `first+second`."""

    def note(self, axis: str, name: str) -> None:
        """Called by an implementation from within."""
        if name not in self.setdefault(axis, name).split("+"):
            self[axis] += f"+{name}"


def eager(query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, ran: Ran) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V with the whole matrix of scores; softmax in float32 at least."""
    ran.note("attention", "eager")
    length = query.shape[1]
    query, key, value = _by_head(query, key, value)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    mask = visibility.mask(range(length), range(length), query.device)
    scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return _by_token(weights.to(value.dtype) @ value)


def sdpa(query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, ran: Ran) -> Tensor:
    """PyTorch's fused attention; a mask is only made where causality is not all."""
    ran.note("attention", "sdpa")
    length = query.shape[1]
    plain = visibility.is_plain
    mask = None if plain else visibility.mask(range(length), range(length), query.device)
    query, key, value = _by_head(query, key, value)
    return _by_token(scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=plain))


def blockwise(query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, ran: Ran) -> Tensor:
    """Online softmax over chunks of keys, accumulated in float32 at least: https://arxiv.org/abs/1805.02867."""
    ran.note("attention", "blockwise")
    dtype = torch.promote_types(query.dtype, torch.float32)
    answer_dtype, length = query.dtype, query.shape[1]
    query, key, value = _by_head(query.to(dtype), key.to(dtype), value.to(dtype))
    starts = range(0, length, CHUNK)
    chunks = [_online(query, key, value, visibility, range(at, min(at + CHUNK, length))) for at in starts]
    return _by_token(torch.cat(chunks, dim=2).to(answer_dtype))


def _online(query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, queries: range) -> Tensor:
    """One chunk of queries against every chunk of keys that it can see, the nearest first."""
    mine = query[:, :, queries.start : queries.stop] * query.shape[-1] ** -0.5
    total, weighted = mine.new_zeros(mine.shape[:-1]), torch.zeros_like(mine)
    highest = torch.full_like(total, float("-inf"))
    first = 0 if visibility.window is None else max(0, queries.start - visibility.window + 1)
    for begin in range(queries.start, first // CHUNK * CHUNK - 1, -CHUNK):
        keys = range(begin, min(begin + CHUNK, queries.stop))
        scores = mine @ key[:, :, keys.start : keys.stop].transpose(-1, -2)
        scores = scores.masked_fill(~visibility.mask(queries, keys, query.device), float("-inf"))
        new_highest = torch.maximum(highest, scores.amax(-1))
        shrink, weights = (highest - new_highest).exp(), (scores - new_highest[..., None]).exp()
        total = total * shrink + weights.sum(-1)
        weighted = weighted * shrink[..., None] + weights @ value[:, :, keys.start : keys.stop]
        highest = new_highest
    return weighted.div(total[..., None])


def _by_head(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, heads, T, D) each; a key-value head serves `heads / kv_heads` query heads that follow one another."""
    group = query.shape[2] // key.shape[2]
    key, value = (tensor.repeat_interleave(group, dim=2) for tensor in (key, value))
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def _by_token(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2).flatten(2)


ATTENTION: Final[dict[str, Implementation]] = {"eager": eager, "sdpa": sdpa, "blockwise": blockwise}
"""The variants of the axis "attention", the default first."""
