"""A rank's report and the comparison of copies, on real processes with a stand-in for Fast-LLM's collectives."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ci.subjects.fast_llm.layout_proof import describe_rank, find_disagreements
from ci.subjects.ranks import run_ranks
from tests.ci.subjects.rank_work import close_group, open_group

if TYPE_CHECKING:
    from ci.subjects.rank_process import Rank
    from ci.subjects.training import Disagreement, RankReport


def stand_in_for_collectives() -> None:
    module: Any = ModuleType("fast_llm.core.distributed")
    module.broadcast = lambda tensor, source, group: dist.broadcast(tensor, source, group)
    module.all_gather_into_tensor = lambda out, part, group: dist.all_gather(list(out.split(1)), part, group)
    for name in ("fast_llm", "fast_llm.core"):
        sys.modules[name] = ModuleType(name)
    sys.modules["fast_llm.core.distributed"] = module


def make_model(group: Any, *, data: int = 1, zero: int = 1) -> Any:
    meta = SimpleNamespace(shape=torch.Size((4, 3)))
    fsdp = SimpleNamespace(parameter_names=["weight"], weight_shard_meta=torch.empty(6))
    stage = SimpleNamespace(fsdps=[fsdp], get_parameter_meta=lambda _: meta)
    groups = dict.fromkeys(("pipeline_group", "batch_data_group", "sequence_data_group", "data_group"))
    return SimpleNamespace(
        distributed=SimpleNamespace(tensor_group=group, device=torch.device("cpu"), **groups),
        stages_on_device={0: stage},
        config=SimpleNamespace(
            distributed=SimpleNamespace(data_parallel=data), multi_stage=SimpleNamespace(zero_stage=zero)
        ),
        _grad_buffers=[1, 2],
        _weight_buffers=[1],
    )


def report(rank: Rank) -> tuple[RankReport, list[Disagreement]]:
    stand_in_for_collectives()
    open_group(rank)
    group = dist.group.WORLD
    model = make_model(group)
    tensors = {"same": torch.ones(3), "other": torch.full((3,), 1.0 + rank.number), "zero": torch.zeros(2)}
    result = describe_rank(rank.number, model), list(find_disagreements(model, tensors, "gradient", 2, rank.number))
    close_group()
    return result


def test_groups_are_those_that_answer_and_copies_are_compared() -> None:
    (first, nothing), (second, found) = run_ranks(report, 2, seconds=60)
    assert first.groups == second.groups == {"tensor": (0, 1)}
    assert first.parameters == {"weight": (4, 3)}
    assert nothing == []
    assert [(each.tensor, each.kind, each.ranks, each.step) for each in found] == [("other", "gradient", (0, 1), 2)]
    assert found[0].error == 1.0


def test_slices_and_buffers_are_reported_where_state_is_cut() -> None:
    parameters = describe_rank(0, make_model(None, data=2, zero=3)).parameters
    assert parameters == {"weight": (4, 3), "stage 0/slice": (6,), "gradient_buffers": (2,), "weight_buffers": (1,)}
