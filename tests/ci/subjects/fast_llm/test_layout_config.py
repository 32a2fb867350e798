"""Fast-LLM's configuration for a layout, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ci.errors import UnsupportedError
from ci.layouts import LAYOUTS
from ci.subjects.fast_llm.layout_config import (
    RECOMPUTE,
    check_divisible,
    find_layout,
    list_stage_sizes,
    make_layout_updates,
    make_training_updates,
    round_up_predictions,
)
from ci.subjects.fast_llm.offer import LAYOUTS_OFFERED, OFFER
from ci.subjects.rank_process import Rank


def make_config(*, vocabulary: int = 152, heads: int = 4, groups: int = 2, experts: bool = False) -> Any:
    mlp = SimpleNamespace(intermediate_size=80, recompute_level="none")
    if experts:
        mlp.auxiliary_loss_coefficient = 0.01
    block = SimpleNamespace(mixer=SimpleNamespace(heads=heads, head_groups=groups), mlp=mlp)
    model = SimpleNamespace(
        embeddings=SimpleNamespace(vocab_size=vocabulary), decoder=SimpleNamespace(block=block, num_blocks=4)
    )
    return SimpleNamespace(base_model=model)


def test_expert_parallelism_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="layout ep2 is not offered: it has no expert parallelism"):
        find_layout("ep2")
    with pytest.raises(UnsupportedError, match="layout tp16 is not offered: it is unknown"):
        find_layout("tp16")
    assert [find_layout(name).name for name in LAYOUTS_OFFERED] == list(LAYOUTS_OFFERED)
    assert len(LAYOUTS_OFFERED) == len(LAYOUTS) - 1


@pytest.mark.parametrize("name", LAYOUTS_OFFERED)
def test_each_layout_sets_its_own_degrees(name: str) -> None:
    layout = LAYOUTS[name]
    updates = make_layout_updates(layout, Rank(0, layout.ranks, Path("folder"), 5.0), "cpu")
    degrees = [updates["distributed", f"{axis}_parallel"] for axis in ("tensor", "pipeline", "sequence_data")]
    assert degrees == [layout.tensor, layout.pipeline, layout.sequence_data]
    assert updates["distributed", "world_size"] == layout.ranks
    assert updates["distributed", "sequence_tensor_parallel"] is layout.sequence_tensor
    assert updates["multi_stage", "zero_stage"] == layout.zero_stage
    assert (updates["distributed", "backend"], updates["distributed", "use_cuda"]) == ("gloo", False)


def test_on_gpus_the_collectives_are_those_of_nccl() -> None:
    updates = make_layout_updates(LAYOUTS["tp2"], Rank(1, 2, Path("folder"), 5.0), "cuda")
    assert (updates["distributed", "backend"], updates["distributed", "rank"]) == ("nccl", 1)


def test_the_balancing_loss_is_set_where_there_are_experts() -> None:
    path = ("base_model", "decoder", "block", "mlp")
    assert make_training_updates(make_config(), 0.0, "full") == {(*path, "recompute_level"): "full"}
    experts = make_training_updates(make_config(experts=True), 0.02, "none")
    assert experts == {(*path, "recompute_level"): "none", (*path, "auxiliary_loss_coefficient"): 0.02}
    with pytest.raises(UnsupportedError, match="no recomputation 'everything'; it has none, activation"):
        make_training_updates(make_config(), 0.0, "everything")
    assert RECOMPUTE[0] == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": 151}, r"151 \(vocabulary\) is not divisible by 2 tensor ranks"),
        ({"groups": 1}, r"1 \(key and value heads\)"),
        ({"heads": 3}, r"3 \(heads\)"),
    ],
)
def test_sizes_that_tensor_ranks_cannot_divide_are_refused(changes: dict[str, Any], message: str) -> None:
    check_divisible(make_config(), LAYOUTS["tp2"])
    check_divisible(make_config(**changes), LAYOUTS["dp2"])
    with pytest.raises(UnsupportedError, match=message) as caught:
        check_divisible(make_config(**changes), LAYOUTS["tp2"])
    assert any(need in str(caught.value) for need in OFFER.conditional_needs["layout=tp2"])


def test_a_document_is_padded_to_what_the_layout_can_cut() -> None:
    assert round_up_predictions(31, LAYOUTS["single"]) == 31
    assert [round_up_predictions(31, LAYOUTS[name]) for name in ("split2", "sdp2", "stp2", "tp2")] == [32, 32, 32, 31]


def test_only_separate_tied_embeddings_try_other_stages() -> None:
    assert list_stage_sizes(LAYOUTS["pp2"], 4) == (1.0,)
    assert list_stage_sizes(LAYOUTS["pp2_tied"], 4) == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
