"""The control of the equivalence check: the reference's functions, unpatched, leave Hugging Face's answer alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.mutation.catalogue import catalogue
from benchmarks.mutation.hf_injection import PORTS, MutantHuggingFace, Recipient, undone
from benchmarks.mutation.injection import Current, Mutation, Patch
from ci.subjects.reference import model as reference
from ci.subjects.reference.directories import read_fast_llm

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Bench


def moves(bench: Bench, mutation: Mutation) -> bool:
    recipient = Recipient(mutation, read_fast_llm(bench.right).architecture)
    with undone():
        return bench.answer_moves(MutantHuggingFace(recipient=recipient), bench.source, "float64")


@pytest.mark.parametrize("port", [port for port in PORTS if port not in ("route", "moe")])
def test_a_right_function_changes_nothing(dense: Bench, port: str) -> None:
    assert not moves(dense, Mutation("none", "none", "none", ports=(port,)))


@pytest.mark.parametrize("port", ["route", "moe", "attention"])
def test_right_experts_change_nothing(moe: Bench, port: str) -> None:
    assert not moves(moe, Mutation("none", "none", "none", ports=(port,)))


def test_a_wrong_function_moves_the_answer_and_leaves_no_trace(dense: Bench) -> None:
    before = vars(reference)["rms_norm"]
    wrong = next(mutation for mutation in catalogue() if mutation.name == "norm ignores epsilon")
    assert moves(dense, wrong)
    assert vars(reference)["rms_norm"] is before
    assert Current.layer is None


def test_a_patch_of_one_layer_acts_there_only() -> None:
    patch = Patch("ci.subjects.reference.model", "silu", lambda _: lambda _x: "wrong", layer=2)
    with patch.planted():
        for layer, expected in {2: "wrong", 1: 0.0}.items():
            Current.layer = layer
            assert vars(reference)["silu"](torch.zeros(())) == expected
    Current.layer = None
