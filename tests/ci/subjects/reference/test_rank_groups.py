"""Ranks have their places; in one process every collective is the identity."""

from __future__ import annotations

import pytest
import torch

from ci.layouts import LAYOUTS
from ci.subjects.ranks import run_ranks
from ci.subjects.reference.rank_groups import RankGroups, RankPlace


def test_tensor_ranks_are_neighbours_and_data_ranks_are_not() -> None:
    places = [RankPlace(LAYOUTS["dp2_tp2"], rank) for rank in range(4)]
    assert [(place.tensor, place.pipeline, place.data) for place in places] == [
        (0, 0, 0),
        (1, 0, 0),
        (0, 0, 1),
        (1, 0, 1),
    ]
    assert places[3].list_members("tensor") == (2, 3)
    assert places[3].list_members("data") == (1, 3)
    assert [place.list_documents() for place in places] == [[0], [0], [1], [1]]


def test_documents_are_dealt_in_turn() -> None:
    assert [RankPlace(LAYOUTS["dp2_accumulate2"], r).list_documents() for r in range(2)] == [[0, 2], [1, 3]]
    first, last = (RankPlace(LAYOUTS["pp2"], rank) for rank in range(2))
    assert (first.is_first_stage, first.is_last_stage, last.is_last_stage) == (True, False, True)
    assert first.find_stage(1) == 1


def test_one_process_has_no_groups() -> None:
    groups, tensor = RankGroups.create(RankPlace(LAYOUTS["single"], 0)), torch.ones(3, requires_grad=True)
    assert groups.handles == {}
    assert groups.enter(tensor) is groups.leave(tensor) is tensor
    assert torch.equal(groups.sum(tensor.detach(), "data"), torch.ones(3))
    assert torch.equal(groups.gather_slices(torch.ones(2), "data"), torch.ones(2))


def sum_and_differentiate(rank: object) -> list[list[float]]:
    """Send 1, 2 through both autograd functions on two ranks."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=rank.store, rank=rank.number, world_size=rank.count)  # type: ignore[attr-defined]
    groups = RankGroups.create(RankPlace(LAYOUTS["tp2"], rank.number))  # type: ignore[attr-defined]
    entered, left = (torch.tensor([1.0 + rank.number], requires_grad=True) for _ in range(2))  # type: ignore[attr-defined]
    (groups.enter(entered) * (1 + rank.number)).sum().backward()  # type: ignore[attr-defined]
    total = groups.leave(left)
    (total * 5).sum().backward()
    assert entered.grad is not None
    assert left.grad is not None
    return [
        entered.grad.tolist(),
        total.tolist(),
        left.grad.tolist(),
        groups.gather_slices(left.detach(), "tensor").tolist(),
    ]


def test_entering_sums_gradients_and_leaving_sums_values() -> None:
    for result in run_ranks(sum_and_differentiate, 2, seconds=60):
        assert result == [[3.0], [3.0], [5.0], pytest.approx([1.0, 2.0])]
