"""Noise of Hugging Face's own variants, where some or all of them do not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.equivalence.hf_reference import ReferenceRun
from ci.errors import SubjectError
from ci.subjects.hugging_face import HuggingFace

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.mutation.experiment import Experiment
    from ci.subjects.base import TraceRequest, TraceResult


def reference_run(experiment: Experiment, hugging_face: HuggingFace, workdir: Path) -> ReferenceRun:
    return ReferenceRun(experiment.source, experiment.model.test_params, hugging_face, "cpu", workdir / "reference")


class EagerOnly(HuggingFace):
    """A device that lacks every kernel but eager attention."""

    def trace(self, request: TraceRequest) -> TraceResult:
        if request.variant.get("attention") == "sdpa":
            raise SubjectError("no kernel image is available")
        return super().trace(request)


def test_a_variant_that_the_device_lacks_is_left_out_of_the_noise_and_named(dense: Experiment, tmp_path: Path) -> None:
    reference = reference_run(dense, EagerOnly(), tmp_path)
    assert reference.get_tolerances(reference.cases[0], "float32").floors["logits"].error > 0
    assert "no kernel" not in reference.describe_coverage()["noise"]
    assert "attention=sdpa" in reference.describe_coverage()["noise"]


class Float64Only(HuggingFace):
    """Runs in float64 only."""

    def trace(self, request: TraceRequest) -> TraceResult:
        if request.dtype != "float64":
            raise SubjectError("not implemented for 'Float'")
        return super().trace(request)


def test_without_any_variant_there_is_no_limit(dense: Experiment, tmp_path: Path) -> None:
    reference = reference_run(dense, Float64Only(), tmp_path)
    with pytest.raises(SubjectError, match=r"no variant runs in float32: .*not implemented"):
        reference.get_tolerances(reference.cases[0], "float32")
