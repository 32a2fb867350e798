"""Every tensor gets noise, and a weight that is not read is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.equivalence.checkpoint_tensors import CheckpointTensors
from ci.equivalence.tolerances import PERTURBATION
from ci.equivalence.weight_perturbation import perturb_checkpoint
from ci.errors import UnsupportedError
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment
    from ci.subjects.base import ConvertRequest, ConvertResult


def test_every_tensor_gets_noise_and_keeps_its_dtype(dense: Experiment, tmp_path: Path) -> None:
    perturbed = perturb_checkpoint(dense.source, tmp_path / "perturbed")
    before, after = CheckpointTensors(dense.source), CheckpointTensors(perturbed)
    assert before.files.keys() == after.files.keys()
    for name in before.files:
        one, other = before.read(name), after.read(name)
        assert one.dtype == other.dtype
        assert not torch.equal(one, other)
        moved, size = (other.float() - one.float()).norm(), one.float().norm()
        assert float(moved / size) == pytest.approx(PERTURBATION, rel=0.5)


class NormIgnorer(ReferenceSubject):
    """Reads every norm of layer 1 as it was in the checkpoint that it saw first."""

    def convert(self, request: ConvertRequest) -> ConvertResult:
        result = super().convert(request)
        for file in Path(request.target).glob("*.safetensors"):
            weights = load_file(file)
            weights["decoder.1.norm_2.weight/weights"] = torch.ones_like(weights["decoder.1.norm_2.weight/weights"])
            save_file(weights, file)
        return result


def test_a_weight_that_is_not_read_is_named(dense: Experiment) -> None:
    assert dense.judge(ReferenceSubject(), dense.converted).check_weight_liveness().passed
    verdict = replace(dense.judge(NormIgnorer(), dense.converted), cross_check=None).check_weight_liveness()
    assert not verdict.passed
    assert verdict.diagnosis.startswith("layer 1, norm before the MLP [conversion]: ")
    assert "model.layers.1.post_attention_layernorm.weight" in verdict.diagnosis


def test_a_refusal_at_conversion_is_the_subjects_own_error(dense: Experiment) -> None:
    class Refuser(ReferenceSubject):
        def convert(self, request: ConvertRequest) -> ConvertResult:
            raise UnsupportedError("not today")

    with pytest.raises(UnsupportedError, match="not today"):
        dense.judge(Refuser(), dense.converted).check_weight_liveness()
