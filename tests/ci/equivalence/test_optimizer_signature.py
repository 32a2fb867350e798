"""Each known mistake of AdamW is found by its own updates, and none where the updates are right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ci.equivalence.adamw_oracle import OptimizerHistory, compute_updates
from ci.equivalence.optimizer_signature import (
    MISTAKES,
    RIGHT,
    ParameterUpdates,
    are_slices_swapped,
    find_lost_slices,
    find_optimizer_mistake,
    has_foreign_slices,
)
from ci.subjects.training import OptimizerSettings

SETTINGS = OptimizerSettings(epsilon=1e-2, max_gradient_norm=0.5)


def make_history(*shape: int) -> OptimizerHistory:
    generator = torch.Generator().manual_seed(len(shape))
    weight, *gradients = (torch.randn(shape, generator=generator) for _ in range(3))
    return OptimizerHistory(weight, tuple(gradients), (0.3, 0.7))


HISTORIES = {"matrix": make_history(6, 5), "vector": make_history(6)}


def test_the_algorithm_without_a_mistake_is_torchs() -> None:
    for history in HISTORIES.values():
        for one, other in zip(
            RIGHT.compute_updates(history, SETTINGS), compute_updates(history, SETTINGS), strict=True
        ):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("words", MISTAKES)
def test_each_mistake_is_found(words: str) -> None:
    parameters = []
    for name, history in HISTORIES.items():
        updates, right = MISTAKES[words].compute_updates(history, SETTINGS), compute_updates(history, SETTINGS)
        if any(not torch.allclose(one, other, rtol=1e-6) for one, other in zip(updates, right, strict=True)):
            parameters.append(ParameterUpdates(name, history, updates))
    assert parameters, "a mistake that changes nothing"
    assert find_optimizer_mistake(parameters, SETTINGS) == words


def test_a_mistake_is_found_where_the_weights_rounding_hides_small_updates() -> None:
    words, mistake = next(iter(MISTAKES.items()))
    large = replace(HISTORIES["vector"], weight=1e4 * HISTORIES["vector"].weight)
    parameters = []
    for name, history in {"small": HISTORIES["matrix"], "large": large}.items():
        weight, updates = history.weight, []
        for update in mistake.compute_updates(history, SETTINGS):
            after = (weight.double() + update).float()
            updates.append(after.double() - weight.double())
            weight = after
        parameters.append(ParameterUpdates(name, history, updates))
    assert find_optimizer_mistake(parameters, SETTINGS) == words


def test_another_rate_and_another_clipping_are_told_by_their_size() -> None:
    history = HISTORIES["matrix"]
    half = [update / 2 for update in compute_updates(history, SETTINGS)]
    told = find_optimizer_mistake([ParameterUpdates("matrix", history, half)], SETTINGS)
    assert told == "its update has 0.5 of its size"
    clipped = compute_updates(replace(history, scales=(0.15, 0.7)), SETTINGS)
    told = find_optimizer_mistake([ParameterUpdates("matrix", history, clipped)], SETTINGS)
    assert told.startswith("the gradient is clipped by 0.5 times")
    noise = [torch.randn(6, 5, dtype=torch.float64) for _ in range(2)]
    assert find_optimizer_mistake([ParameterUpdates("matrix", history, noise)], SETTINGS) == ""


def test_slices_that_are_lost_or_swapped_are_told() -> None:
    history = HISTORIES["matrix"]
    right = compute_updates(history, SETTINGS)[0]
    lost = right.clone()
    lost.view(-1)[15:] = 0
    assert find_lost_slices(lost, right, 2) == [1]
    assert find_lost_slices(right, right, 2) == []
    weight = history.weight.double()
    swapped = torch.cat((weight + right).flatten().chunk(2)[::-1]).view_as(weight) - weight
    assert are_slices_swapped(swapped, history, right, 2)
    assert not are_slices_swapped(right, history, right, 2)
    moved = replace(history, gradients=tuple(g.flatten().roll(15).view_as(g) for g in history.gradients))
    foreign = ParameterUpdates("matrix", history, compute_updates(moved, SETTINGS))
    assert has_foreign_slices(foreign, SETTINGS, 2)
    assert not has_foreign_slices(replace(foreign, updates=compute_updates(history, SETTINGS)), SETTINGS, 2)
