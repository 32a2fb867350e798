"""The forward pass of one rank: its heads, its part of the MLP and of the vocabulary, summed where they meet.

https://arxiv.org/abs/1909.08053: the input of a pair of layers is shared, the first is cut by output, the second by
input, and the ranks sum what the second gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import embedding, linear

from ci.subjects.reference.model import Model, rms_norm
from ci.subjects.reference.rank_groups import RankGroups
from ci.subjects.reference.weight_names import EMBEDDINGS_WEIGHT, FINAL_NORM_WEIGHT, HEAD_WEIGHT
from ci.tensor_names import FINAL_NORM, LOGITS

if TYPE_CHECKING:
    from torch import Tensor

    from ci.subjects.reference.model import RecordTensor


@dataclass(frozen=True)
class ShardedModel(Model):
    """A model of which this process holds parts: `vocabulary` are its token ids; sizes are those of the parts."""

    groups: RankGroups
    vocabulary: range

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (B, T, hidden): of other ranks' tokens zero, then summed."""
        local, held = shift_ids(ids, self.vocabulary)
        rows = embedding(local, self.weights[EMBEDDINGS_WEIGHT])
        return self.groups.leave(rows * held[..., None])

    def run_head(self, hidden: Tensor, record: RecordTensor) -> Tensor:
        """Return the logits (B, T, part of the vocabulary)."""
        normed = rms_norm(hidden, self.weights[FINAL_NORM_WEIGHT], self.architecture.epsilon)
        record(FINAL_NORM, normed)
        weight = self.weights[EMBEDDINGS_WEIGHT if self.architecture.tied else HEAD_WEIGHT]
        logits = linear(self._enter(normed), weight)
        record(LOGITS, logits)
        return logits

    def sum_cross_entropy(self, logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        """Return the cross entropy in nats, summed over the counted tokens.

        `logits` (N, part of the vocabulary), `targets` (N,), `counted` (N,) of 0 and 1; in float32 at least.
        """
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        highest = self.groups.take_maximum(wide.detach().amax(-1), "tensor")
        total = self.groups.leave((wide - highest[:, None]).exp().sum(-1))
        local, held = shift_ids(targets, self.vocabulary)
        chosen = self.groups.leave(wide.gather(-1, local[:, None])[:, 0] * held)
        return ((total.log() + highest - chosen) * counted).sum()

    def _project_output(self, name: str, mixed: Tensor) -> Tensor:
        output, bias = self._leave(linear(mixed, self.weights[f"{name}.weight"])), self.weights.get(f"{name}.bias")
        return output if bias is None else output + bias

    def _enter(self, tensor: Tensor) -> Tensor:
        return self.groups.enter(tensor)

    def _leave(self, tensor: Tensor) -> Tensor:
        return self.groups.leave(tensor)


def shift_ids(ids: Tensor, vocabulary: range) -> tuple[Tensor, Tensor]:
    """Return ids as rows of a vocabulary's part, 0 for missing ones, and which are there."""
    held = (ids >= vocabulary.start) & (ids < vocabulary.stop)
    return (ids - vocabulary.start) * held, held
