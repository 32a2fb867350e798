"""One compared case of a real small model: what ran, in which dtype, and with which input of a block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.mutation.catalogue import catalogue
from benchmarks.mutation.injection import MutantSubject
from ci.records import to_json
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment
    from ci.subjects.base import TraceRequest, TraceResult

BUGS = {mutation.name: mutation for mutation in catalogue()}


class WithKernelAxis(MutantSubject):
    """Has an axis that the reference knows nothing of."""

    def trace(self, request: TraceRequest) -> TraceResult:
        kernel = request.variant.get("kernel", "")
        result = super().trace(replace(request, variant={}))
        told = replace(result, ran={**result.ran, "kernel": kernel})
        (Path(request.output) / "trace.json").write_text(to_json(told), encoding="utf-8")
        return told


def test_the_cross_check_runs_its_own_default_variant(dense: Experiment) -> None:
    subject = WithKernelAxis(BUGS["norm ignores epsilon"])
    verdict = dense.judge(subject, dense.converted).check_forward(dtype="float32", variant={"kernel": "flash"})
    assert verdict.component == "kernel"
    assert "the reference's forward over the same converted checkpoint equals Hugging Face's" in verdict.diagnosis


@pytest.mark.parametrize(("share", "teacher_forced"), [(0.5, False), (-1.0, True)])
def test_blocks_are_compared_alone_where_flips_excuse_too_much(
    dense: Experiment, monkeypatch: pytest.MonkeyPatch, share: float, teacher_forced: bool
) -> None:
    monkeypatch.setattr("ci.equivalence.case_runner.TEACHER_FORCING_SHARE", share)
    verdict = dense.judge(ReferenceSubject(), dense.converted).check_forward(dtype="model", variant={})
    assert verdict.passed, verdict.diagnosis
    assert {"block by block" in measure.case for measure in verdict.measures} == {teacher_forced}


class VariantIgnorerWhenTeacherForced(ReferenceSubject):
    """Runs what it is asked for, but not with teacher forcing."""

    def trace(self, request: TraceRequest) -> TraceResult:
        return super().trace(replace(request, variant={}) if request.feed else request)


def test_a_variant_must_run_where_blocks_are_fed_too(dense: Experiment) -> None:
    verdict = dense.judge(VariantIgnorerWhenTeacherForced(), dense.converted).check_forward(
        dtype="float32", variant={"attention": "sdpa"}
    )
    assert verdict.diagnosis == "variant did not run (attention: eager ran instead)"


class AlwaysFloat32(ReferenceSubject):
    """Computes in float32 whatever precision is asked for, and says so."""

    def trace(self, request: TraceRequest) -> TraceResult:
        return super().trace(replace(request, dtype="float32"))


def test_another_dtype_than_the_one_asked_for_is_never_a_pass(dense: Experiment) -> None:
    verdict = dense.judge(AlwaysFloat32(), dense.converted).check_forward(dtype="model", variant={})
    assert (verdict.passed, verdict.failure_class) == (False, "variant_did_not_run")
    assert verdict.diagnosis == "variant did not run (dtype: float32 ran instead)"
