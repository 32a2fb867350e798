"""Verdicts on real small models: passed when right, failed with a sentence when wrong, never passed by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.judge import Judge
from ci.errors import UnsupportedError
from ci.evidence import FINGERPRINT
from ci.records import to_json
from ci.subjects.base import DType, ExportRequest, TraceRequest, TraceResult
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment


def test_a_right_conversion_passes_and_its_figures_stay_visible(dense: Experiment) -> None:
    judge = dense.judge(ReferenceSubject(), dense.converted)
    verdicts = (
        judge.check_forward(dtype="float32", variant={}),
        judge.check_forward(dtype="model", variant={"attention": "sdpa"}),
    )
    for verdict, dtype, most in zip(verdicts, ("float32", "bfloat16"), (0.5, 0.9), strict=True):
        assert verdict.passed, verdict.diagnosis
        assert verdict.worst is not None
        assert verdict.worst.used < most
        assert 0.2 < verdict.figures[f"{dtype}.logits_ratio"] < 2
        assert verdict.heat is not None
        assert len(verdict.heat.values) == len(verdict.heat.rows) <= 66
        assert json.loads(to_json(verdict))["passed"] is True
        assert verdict.figures[FINGERPRINT] == dense.reference.fingerprint
        assert verdict.coverage["inputs"].startswith(
            "batch: 4 x 64 (random, random, document of 42, document of 21, ids "
        )
    assert verdicts[0].ran["attention"] == "eager"
    assert verdicts[1].ran["attention"] == "sdpa"
    assert verdicts[0].coverage["oracle"].startswith("Hugging Face in float64, transformers ")


class NoisyLogits(HuggingFace):
    """A Hugging Face whose float32 kernels are broken on this machine: they answer with noise."""

    def trace(self, request: TraceRequest) -> TraceResult:
        result = super().trace(request)
        if request.dtype == "float32":
            file = Path(request.output) / "head.safetensors"
            head = load_file(file)
            head["logits"] += torch.randn(head["logits"].shape)
            save_file(head, file)
        return result


def test_a_reference_that_disagrees_with_itself_is_inconclusive(dense: Experiment, tmp_path: Path) -> None:
    reference = ReferenceRun(dense.source, dense.model.test_params, NoisyLogits(), "cpu", tmp_path / "reference")
    inputs = ComparisonInputs(dense.model, str(dense.source), str(dense.converted), workdir=str(tmp_path))
    judge = Judge(inputs, ReferenceSubject(), NoisyLogits(), shared_reference=reference)
    back = exported(dense, "back to noise")
    for verdict in (
        judge.check_forward(dtype="float32", variant={}),
        judge.check_round_trip(str(back)),
        judge.check_config_sensitivity(),
    ):
        assert (verdict.passed, verdict.failure_class) == (False, "environment")
        assert "inconclusive" in verdict.diagnosis


def test_traces_are_removed_even_when_the_subject_refuses(dense: Experiment) -> None:
    judge = dense.judge(ReferenceSubject(), dense.converted)
    with pytest.raises(UnsupportedError):
        judge.check_forward(dtype="float32", variant={"attention": "flash"})
    assert not list(Path(judge.inputs.workdir).glob("traces-*"))


def exported(experiment: Experiment, name: str, dtype: DType = "float32") -> Path:
    target, kind = experiment.workdir / name, experiment.tiny_model.model_type
    ReferenceSubject().export(ExportRequest(str(experiment.converted), str(target), kind, dtype=dtype))
    return target
