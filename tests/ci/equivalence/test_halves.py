"""Which half: witnesses are weighed and keys compared."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.equivalence import halves
from ci.equivalence.halves import Witnesses, decide, wrong_keys
from ci.equivalence.roundtrip import resolved
from ci.subjects.reference.directories import read_fast_llm

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment


@pytest.mark.parametrize(
    ("heard", "half"),
    [
        (Witnesses(third_agrees=True, tensors=()), halves.KERNEL),
        (Witnesses(third_agrees=False), halves.CONVERSION),
        (Witnesses(third_agrees=False, on_right_conversion=True, tensors=("x",)), halves.CONVERSION),
        (Witnesses(third_agrees=False, on_right_conversion=False), halves.BOTH),
        (Witnesses(tensors=("x",)), halves.CONVERSION),
        (Witnesses(config=("window",)), halves.CONVERSION),
        (Witnesses(tensors=(), config=()), halves.KERNEL),
        (Witnesses(tensors=(), config=None), halves.UNKNOWN),
        (Witnesses(), halves.UNKNOWN),
    ],
)
def test_the_witnesses_decide(heard: Witnesses, half: str) -> None:
    assert decide(heard).name == half


def test_a_right_conversion_has_no_wrong_key(dense: Experiment, moe: Experiment) -> None:
    for bench in (dense, moe):
        assert wrong_keys(resolved(bench.source), read_fast_llm(bench.converted).architecture) == ()


def test_a_wrong_key_is_named_with_its_layer(dense: Experiment) -> None:
    architecture: Any = read_fast_llm(dense.converted).architecture
    blocks = list(architecture.blocks)
    blocks[2] = replace(blocks[2], attention=replace(blocks[2].attention, window=7))
    found = wrong_keys(resolved(dense.source), replace(architecture, blocks=tuple(blocks), tied=True))
    assert found == ("window is 7 in layer 2, expected None", "tied is True, expected False")
