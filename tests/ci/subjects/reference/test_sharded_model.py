"""In one process a sharded model computes what the whole model does; its cross entropy is torch's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ci.layouts import LAYOUTS
from ci.subjects.reference.directories import read_fast_llm
from ci.subjects.reference.model import Context
from ci.subjects.reference.rank_groups import RankGroups, RankPlace
from ci.subjects.reference.sharded_model import ShardedModel, shift_ids
from ci.subjects.reference.trace import load_model

if TYPE_CHECKING:
    from tests.ci.subjects.reference.conftest import ModelFactory


@pytest.mark.parametrize("name", ["llama-biases", "mixtral-window"])
def test_one_rank_is_the_whole_model(factory: ModelFactory, name: str) -> None:
    checkpoint = read_fast_llm(factory.converted(name))
    whole = load_model(checkpoint, torch.float32, "cpu")
    groups = RankGroups(RankPlace(LAYOUTS["single"], 0))
    vocabulary = range(whole.architecture.vocabulary)
    sharded = ShardedModel(whole.architecture, whole.weights, groups, vocabulary)
    ids, context = torch.arange(20)[None], Context(torch.arange(20)[None])
    answers = []
    for model in (whole, sharded):
        hidden = model.embed(ids)
        for index in range(len(model.architecture.blocks)):
            hidden = model.run_block(index, hidden, context, lambda *_: None)
        answers.append(model.run_head(hidden, lambda *_: None)[0])
    assert torch.allclose(*answers, rtol=1e-4, atol=1e-5)
    targets, counted = torch.arange(20), torch.tensor([1, 0] * 10)
    expected = torch.nn.functional.cross_entropy(answers[1][counted == 1], targets[counted == 1], reduction="sum")
    assert sharded.sum_cross_entropy(answers[1], targets, counted).item() == pytest.approx(expected.item(), rel=1e-5)


def test_ids_of_another_part_are_not_held() -> None:
    local, held = shift_ids(torch.tensor([3, 5, 9]), range(5, 9))
    assert (local.tolist(), held.tolist()) == ([0, 0, 0], [False, True, False])
