"""Parts of a parameter put together are the parameter, and a model that cannot be cut is refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ci.errors import UnsupportedError
from ci.layouts import LAYOUTS
from ci.subjects.reference.config import Architecture, Attention, Block, DefaultRope, Mlp
from ci.subjects.reference.convert import list_parameters
from ci.subjects.reference.parameter_shards import (
    check_layout,
    cut_architecture,
    cut_parameter,
    cut_range,
    find_stage,
    join_parameter,
)
from ci.subjects.reference.rank_groups import RankPlace

BLOCK = Block(Attention(4, 2, 3, None, True, True, DefaultRope(1e4)), Mlp(6, False, "silu", 4, 2), 1e-5)
ARCHITECTURE = Architecture(vocabulary=11, hidden=5, blocks=(BLOCK, BLOCK, BLOCK), epsilon=1e-5, tied=True)


@pytest.mark.parametrize("parameter", tuple(list_parameters(ARCHITECTURE)), ids=lambda parameter: parameter.name)
def test_parts_put_together_are_the_parameter(parameter: object) -> None:
    full = torch.randn(parameter.shape)  # type: ignore[attr-defined]
    parts = [cut_parameter(parameter, full, rank, 2) for rank in range(2)]  # type: ignore[arg-type]
    assert torch.equal(join_parameter(parameter, parts), full)  # type: ignore[arg-type]
    held = sum(part.numel() for part in parts)
    assert held in (full.numel(), 2 * full.numel())


def test_every_expert_and_the_value_are_cut_alone() -> None:
    parameters = {p.name: p for p in list_parameters(ARCHITECTURE)}
    key_value = parameters["decoder.0.mixer.key_value.weight"]
    rows = torch.arange(12.0)[:, None].expand(12, 5)
    assert cut_parameter(key_value, rows, 1, 2)[:, 0].tolist() == [3, 4, 5, 9, 10, 11]
    assert cut_parameter(parameters["decoder.0.mlp.layer_2.weight"], torch.randn(24, 5), 0, 2).shape == (12, 5)


def test_ranges_cover_everything_once() -> None:
    assert [cut_range(11, rank, 2) for rank in range(2)] == [range(6), range(6, 11)]
    assert cut_architecture(ARCHITECTURE, 2).blocks[0].attention.heads == 2


def test_tied_embeddings_are_on_both_ends() -> None:
    first, last = (find_stage(RankPlace(LAYOUTS["pp2"], rank), ARCHITECTURE) for rank in range(2))
    name = "embeddings.word_embeddings_weight"
    assert first.holds(name, tied=True)
    assert last.holds(name, tied=True)
    assert not last.holds(name, tied=False)
    assert (first.blocks, last.blocks) == (range(2), range(2, 3))


@pytest.mark.parametrize(
    ("layout", "changes", "words"),
    [
        ("tp2", {"blocks": (replace(BLOCK, mixer=replace(BLOCK.attention, kv_heads=1)),)}, "can divide"),
        ("pp2", {"blocks": (BLOCK,)}, "a layer for each stage"),
        ("pp2_tied", {"tied": False}, "tied embeddings"),
    ],
)
def test_what_a_model_lacks_is_named(layout: str, changes: dict[str, object], words: str) -> None:
    check_layout(ARCHITECTURE, LAYOUTS[layout])
    with pytest.raises(UnsupportedError, match=words):
        check_layout(replace(ARCHITECTURE, **changes), LAYOUTS[layout])  # type: ignore[arg-type]
