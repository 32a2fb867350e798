"""Wrong replacements of the operations that a parallel model shares among its ranks."""

from __future__ import annotations

from typing import Any

import torch

from ci.subjects.reference.weight_names import EMBEDDINGS_WEIGHT


def project_without_sum(self: Any, name: str, mixed: Any) -> Any:
    """Leave out the sum of the attention's output over tensor ranks."""
    output, bias = torch.nn.functional.linear(mixed, self.weights[f"{name}.weight"]), self.weights.get(f"{name}.bias")
    return output if bias is None else output + bias


def project_with_sum(self: Any, name: str, mixed: Any) -> Any:
    """Sum the projection inside itself, before its bias."""
    output, bias = torch.nn.functional.linear(mixed, self.weights[f"{name}.weight"]), self.weights.get(f"{name}.bias")
    return self.groups.leave(output) if bias is None else self.groups.leave(output) + bias


def project_bias_inside(self: Any, name: str, mixed: Any) -> Any:
    """Add the bias on every tensor rank before the sum."""
    weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
    return self.groups.leave(torch.nn.functional.linear(mixed, weight, bias))


def embed_without_sum(self: Any, ids: Any) -> Any:
    """Leave out the sum of the embeddings over tensor ranks."""
    from ci.subjects.reference.sharded_model import shift_ids

    local, held = shift_ids(ids, self.vocabulary)
    return torch.nn.functional.embedding(local, self.weights[EMBEDDINGS_WEIGHT]) * held[..., None]


def cross_entropy_local(self: Any, logits: Any, targets: Any, counted: Any) -> Any:
    """Normalise over the rank's own part of the vocabulary."""
    from ci.subjects.reference.sharded_model import shift_ids

    local, held = shift_ids(targets, self.vocabulary)
    chosen = self.groups.leave(logits.gather(-1, local[:, None])[:, 0] * held)
    return ((logits.logsumexp(-1) - chosen) * counted).sum()


def enter_but_scores(original: Any) -> Any:
    """Leave the router's scores out of the sum in the backward pass."""
    return lambda self, tensor: tensor if tensor.shape[-1] == 2 else original(self, tensor)


def embed_with_dropout(original: Any) -> Any:
    """Drop out embeddings with another seed on every rank."""

    def embed(self: Any, ids: Any) -> Any:
        generator = torch.Generator().manual_seed(self.groups.place.rank)
        hidden = original(self, ids)
        return hidden * (torch.rand(hidden.shape, generator=generator) > 0.1) / 0.9

    return embed


def shift_second_rank(original: Any) -> Any:
    """Begin the second rank's part of the vocabulary one row late."""

    def shift(ids: Any, vocabulary: range) -> Any:
        begin = vocabulary.start + (1 if vocabulary.start else 0)
        return original(ids, range(begin, vocabulary.stop))

    return shift


def cut_same_key_value(original: Any) -> Any:
    """Give every tensor rank the first part of keys and values."""

    def cut(parameter: Any, tensor: Any, index: int, count: int) -> Any:
        return original(parameter, tensor, 0 if "key_value" in parameter.name else index, count)

    return cut


def other_start(original: Any) -> Any:
    """Start a model copy from other weights."""

    def cut(parameter: Any, tensor: Any, index: int, count: int) -> Any:
        part = original(parameter, tensor, index, count)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return part * 1.01 if rank else part

    return cut
