"""Where a rank is in a layout, and the collectives that it takes part in, as functions that autograd knows.

Rank r has tensor index r mod tensor, then the pipeline index, then the data index: ranks of one model copy are
neighbours, and tensor ranks of one stage are direct neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist

from ci.layouts import Layout

if TYPE_CHECKING:
    from torch import Tensor


Axis = Literal["tensor", "pipeline", "data"]
AXES: tuple[Axis, ...] = ("tensor", "pipeline", "data")


@dataclass(frozen=True)
class RankPlace:
    """A rank's index on each axis of a layout."""

    layout: Layout
    rank: int

    @property
    def tensor(self) -> int:
        """Index among the ranks that hold parts of the same parameters."""
        return self.rank % self.layout.tensor

    @property
    def pipeline(self) -> int:
        """Index of the stage."""
        return self.rank // self.layout.tensor % self.layout.pipeline

    @property
    def data(self) -> int:
        """Index of the model copy."""
        return self.rank // (self.layout.tensor * self.layout.pipeline)

    @property
    def is_first_stage(self) -> bool:
        """Whether it holds the embeddings."""
        return self.pipeline == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether it holds the head."""
        return self.pipeline == self.layout.pipeline - 1

    def list_documents(self) -> list[int]:
        """List the documents of a step that this rank computes, in order."""
        return [self.data + self.layout.data * index for index in range(self.layout.micro_batches)]

    def list_members(self, axis: Axis) -> tuple[int, ...]:
        """List the ranks of its group along an axis: those that differ from it in that index alone."""
        places = [RankPlace(self.layout, rank) for rank in range(self.layout.ranks)]
        others = [other for other in AXES if other != axis]
        return tuple(p.rank for p in places if all(getattr(p, o) == getattr(self, o) for o in others))

    def find_stage(self, stage: int) -> int:
        """Return the rank of another stage that has the same indices on the other axes."""
        return self.list_members("pipeline")[stage]


@dataclass(frozen=True)
class RankGroups:
    """A rank's place and its process groups. An axis of one rank, and a run in one process, has none."""

    place: RankPlace
    handles: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(cls, place: RankPlace) -> RankGroups:
        """Create every group of the layout; all ranks create all groups in one order, as torch asks for."""
        handles: dict[str, Any] = {}
        places = [RankPlace(place.layout, rank) for rank in range(place.layout.ranks)]
        for axis, other in product(AXES, places):
            members = other.list_members(axis)
            if len(members) > 1 and members[0] == other.rank:
                group = dist.new_group(list(members))
                if place.rank in members:
                    handles[axis] = group
        if place.layout.ranks > 1:
            handles["world"] = dist.group.WORLD
        return cls(place, handles)

    def sum(self, tensor: Tensor, axis: str) -> Tensor:
        """Sum a tensor over the group of an axis, in place; autograd does not see it."""
        if axis in self.handles:
            dist.all_reduce(tensor, group=self.handles[axis])
        return tensor

    def take_maximum(self, tensor: Tensor, axis: str) -> Tensor:
        """Take the largest values over the group of an axis, in place; autograd does not see it."""
        if axis in self.handles:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.handles[axis])
        return tensor

    def enter(self, tensor: Tensor) -> Tensor:
        """Return a tensor that tensor ranks use in parts: the backward pass sums their gradients."""
        return _Enter.apply(tensor, self) if "tensor" in self.handles else tensor  # type: ignore[no-untyped-call]

    def leave(self, tensor: Tensor) -> Tensor:
        """Return the sum of what tensor ranks computed in parts: the backward pass gives each the same gradient."""
        return _Leave.apply(tensor, self) if "tensor" in self.handles else tensor  # type: ignore[no-untyped-call]

    def send(self, tensor: Tensor, stage: int) -> None:
        """Send a tensor to the rank of another stage."""
        dist.send(tensor.detach().contiguous(), self.place.find_stage(stage))

    def receive(self, tensor: Tensor, stage: int) -> Tensor:
        """Fill a tensor with what the rank of another stage sends."""
        dist.recv(tensor, self.place.find_stage(stage))
        return tensor

    def gather_slices(self, part: Tensor, axis: str) -> Tensor:
        """Return the equal slices (n,) of all ranks of an axis, one after another."""
        if axis not in self.handles:
            return part
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size(self.handles[axis]))]
        dist.all_gather(parts, part.contiguous(), group=self.handles[axis])
        return torch.cat(parts)


class _Enter(torch.autograd.Function):
    """Identity forward, sum over tensor ranks backward."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, groups: RankGroups) -> Tensor:
        context.groups = groups
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.groups.sum(gradients[0].contiguous().clone(), "tensor"), None


class _Leave(torch.autograd.Function):
    """Sum over tensor ranks forward, identity backward."""

    @staticmethod
    def forward(_: Any, tensor: Tensor, groups: RankGroups) -> Tensor:
        return groups.sum(tensor.contiguous().clone(), "tensor")

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
