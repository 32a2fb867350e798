"""The reference's AdamW is torch's, whole and in slices."""

from __future__ import annotations

from dataclasses import replace

import torch

from ci.layouts import LAYOUTS
from ci.subjects.reference.adamw import AdamW, is_decayed, pad_to_slices
from ci.subjects.reference.rank_groups import RankGroups, RankPlace
from ci.subjects.training import OptimizerSettings

SETTINGS = OptimizerSettings(learning_rate=0.05, weight_decay=0.2)


def test_two_steps_are_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    start = {"matrix": torch.randn(4, 3, generator=generator), "vector": torch.randn(4, generator=generator)}
    ours = {name: tensor.clone() for name, tensor in start.items()}
    theirs = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    groups = [{"params": [p], "weight_decay": 0.2 if p.ndim > 1 else 0.0} for p in theirs.values()]
    betas = (SETTINGS.beta_1, SETTINGS.beta_2)
    torchs = torch.optim.AdamW(groups, SETTINGS.learning_rate, betas, SETTINGS.epsilon)
    optimizer = AdamW(SETTINGS, RankGroups(RankPlace(LAYOUTS["single"], 0)))
    optimizer.prepare(ours)
    for _ in range(2):
        gradients = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in start.items()}
        optimizer.update(ours, gradients, 0.5)
        for name, parameter in theirs.items():
            parameter.grad = gradients[name] * 0.5
        torchs.step()
    assert optimizer.step == 2
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name].detach(), rtol=1e-5, atol=1e-7)


def test_state_is_cut_into_equal_slices() -> None:
    optimizer = AdamW(SETTINGS, RankGroups(RankPlace(LAYOUTS["zero2"], 1)))
    assert optimizer.slices == 2
    assert optimizer.cut_state(torch.arange(5.0)).tolist() == [3, 4, 0]
    assert pad_to_slices(torch.ones(5), 2).tolist() == [1, 1, 1, 1, 1, 0]
    assert AdamW(SETTINGS, RankGroups(RankPlace(replace(LAYOUTS["dp2"]), 0))).slices == 1


def test_matrices_alone_are_decayed() -> None:
    assert (is_decayed(torch.ones(2, 2)), is_decayed(torch.ones(2))) == (True, False)
