"""Full tensors of a stage: those that Fast-LLM keeps, and zeros for the gradients that it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from ci.subjects.fast_llm.state import GRADIENTS, WEIGHTS, gather

if TYPE_CHECKING:
    from collections.abc import Iterator


class Part:
    """Parameters that share a buffer, as Fast-LLM's FSDP has them; a frozen one has no gradients."""

    def __init__(self, names: tuple[str, ...], *, requires_grad: bool) -> None:
        self.parameter_names, self.requires_grad = names, requires_grad

    def get_parameter_meta(self, _: str) -> Any:
        return SimpleNamespace(global_shape=torch.Size([2]))

    def export_shard(self, shard: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        yield from zip(self.parameter_names, shard.view(-1, 2), strict=True)


def make_model(owned: tuple[int, ...] = (0, 1)) -> Any:
    trained, frozen = Part(("a", "b"), requires_grad=True), Part(("scale",), requires_grad=False)
    other = Part(("c",), requires_grad=True)
    sizes = {WEIGHTS: [[4, 2], [2]], GRADIENTS: [[4, 0], [2]]}
    return SimpleNamespace(
        _shards={WEIGHTS: torch.arange(8.0), GRADIENTS: torch.arange(6.0) + 10},
        _get_stage_shard_sizes=lambda shard: [sum(stage) for stage in sizes[shard]],
        _get_fsdp_shard_sizes=lambda shard: sizes[shard],
        _stages_owned=owned,
        stages_on_device={0: SimpleNamespace(fsdps=[trained, frozen]), 1: SimpleNamespace(fsdps=[other])},
    )


def test_a_frozen_parameter_has_a_weight_and_a_gradient_of_zeros() -> None:
    weights, gradients = gather(make_model(), WEIGHTS), gather(make_model(), GRADIENTS)
    assert list(weights) == list(gradients) == ["a", "b", "scale", "c"]
    assert weights["scale"].tolist() == [4.0, 5.0]
    assert gradients["scale"].tolist() == [0.0, 0.0]
    assert gradients["c"].tolist() == [14.0, 15.0]


def test_what_another_stage_owns_is_left_to_it() -> None:
    assert list(gather(make_model(owned=(1,)), WEIGHTS)) == ["c"]
