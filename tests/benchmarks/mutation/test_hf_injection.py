"""The control of the equivalence check: the reference's functions, unpatched, leave Hugging Face's answer alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.mutation.catalogue import catalogue
from benchmarks.mutation.hf_injection import HF_INJECTORS, HFInjection, MutantHuggingFace, transformers_restored
from benchmarks.mutation.injection import CurrentLayer, Mutation, Patch
from ci.subjects.reference import model as reference
from ci.subjects.reference.directories import read_fast_llm

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment


def changes_logits(experiment: Experiment, mutation: Mutation) -> bool:
    injection = HFInjection(mutation, read_fast_llm(experiment.converted).architecture)
    with transformers_restored():
        return experiment.changes_logits(MutantHuggingFace(injection=injection), experiment.source, "float64")


@pytest.mark.parametrize("target", [target for target in HF_INJECTORS if target not in ("route", "moe")])
def test_a_correct_function_changes_nothing(dense: Experiment, target: str) -> None:
    assert not changes_logits(dense, Mutation("none", "none", "none", hf_targets=(target,)))


@pytest.mark.parametrize("target", ["route", "moe", "attention"])
def test_correct_experts_change_nothing(moe: Experiment, target: str) -> None:
    assert not changes_logits(moe, Mutation("none", "none", "none", hf_targets=(target,)))


def test_a_wrong_function_changes_the_logits_and_is_removed_again(dense: Experiment) -> None:
    before = vars(reference)["rms_norm"]
    wrong = next(mutation for mutation in catalogue() if mutation.name == "norm ignores epsilon")
    assert changes_logits(dense, wrong)
    assert vars(reference)["rms_norm"] is before
    assert CurrentLayer.index is None


def test_a_patch_of_one_layer_acts_there_only() -> None:
    patch = Patch("ci.subjects.reference.model", "silu", lambda _: lambda _x: "wrong", layer=2)
    with patch.injected():
        for layer, expected in {2: "wrong", 1: 0.0}.items():
            CurrentLayer.index = layer
            assert vars(reference)["silu"](torch.zeros(())) == expected
    CurrentLayer.index = None
