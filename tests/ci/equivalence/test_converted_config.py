"""Each key of a converted architecture is compared with the config that it came from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.equivalence.converted_config import BLOCK_KEYS, MODEL_KEYS, find_wrong_keys
from ci.equivalence.round_trip import resolve_config
from ci.subjects.reference.config import Llama3Rope, YarnRope
from ci.subjects.reference.directories import read_fast_llm

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment


def test_a_right_conversion_has_no_wrong_key(dense: Experiment, moe: Experiment) -> None:
    for experiment in (dense, moe):
        assert (
            find_wrong_keys(resolve_config(experiment.source), read_fast_llm(experiment.converted).architecture) == ()
        )


def test_a_wrong_key_is_named_with_its_layer(dense: Experiment) -> None:
    architecture: Any = read_fast_llm(dense.converted).architecture
    blocks = list(architecture.blocks)
    blocks[2] = replace(blocks[2], mixer=replace(blocks[2].attention, window=7))
    wrong = find_wrong_keys(resolve_config(dense.source), replace(architecture, blocks=tuple(blocks), tied=True))
    assert wrong == ("window is 7 in layer 2, expected None", "tied is True, expected False")


@pytest.mark.parametrize(
    ("rope", "wrong"),
    [
        (Llama3Rope(10000.0, 8.0, 1.0, 4.0, 64), {"rope", "rope factor", "rope original length"}),
        (YarnRope(10000.0, 4.0, 1.1, 32.0, 1.0, 64), {"rope", "rope factor", "rope original length"}),
    ],
)
def test_another_rope_is_wrong_in_its_type_and_its_own_keys(dense: Experiment, rope: Any, wrong: set[str]) -> None:
    architecture: Any = read_fast_llm(dense.converted).architecture
    block = architecture.blocks[0]
    block = replace(block, mixer=replace(block.attention, rope=rope))
    parameters = {"rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 32}
    config = {**resolve_config(dense.source), "rope_parameters": parameters, "num_hidden_layers": 1}
    messages = find_wrong_keys(config, replace(architecture, blocks=(block,)))
    assert {message.split(" is ")[0] for message in messages} == wrong


def test_no_key_has_two_rows() -> None:
    names = [*(key.name for key in BLOCK_KEYS), *(key.name for key in MODEL_KEYS)]
    assert len(names) == len(set(names))
