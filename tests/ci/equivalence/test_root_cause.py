"""The analysis of a failed case: which runs it asks for, and what it makes of their answers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ci.equivalence.root_cause import ForwardSpec, RootCauseAnalysis
from ci.equivalence.tensor_compare import TensorProblem
from ci.errors import SubjectError
from ci.subjects.reference.directories import METADATA
from ci.subjects.reference.subject import ReferenceSubject
from tests.ci.equivalence.comparisons import compared

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.mutation.experiment import Experiment
    from ci.equivalence.case_result import CaseComparison

BROKEN = TensorProblem("non_finite", "logits", "logits is nan")
FAILED, PASSED = compared(1.0, diff={"problems": (BROKEN,)}), compared(1.0)


class Runs:
    """Answers each run by its subject and directory, and remembers what was asked for."""

    def __init__(self, **failed: bool) -> None:
        self.failed, self.specs = failed, list[ForwardSpec]()

    def __call__(self, spec: ForwardSpec, like: CaseComparison, *, teacher_forced: bool) -> CaseComparison:
        self.specs.append(spec)
        key = "cross_check" if isinstance(spec.subject, CrossCheck) else "subject"
        if key not in self.failed:
            raise SubjectError("does not run")
        return FAILED if self.failed[key] else PASSED


class CrossCheck(ReferenceSubject):
    """Another implementation."""


def analysis(experiment: Experiment, workdir: Path, runs: Runs, **changes: Any) -> RootCauseAnalysis:
    spec = ForwardSpec(ReferenceSubject(), str(experiment.converted), {"attention": "sdpa"})
    base = RootCauseAnalysis(experiment.reference, FAILED, None, spec, CrossCheck(), ("llama", "gpt"), runs, workdir)
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("runs", "component"),
    [
        (Runs(cross_check=False), "kernel"),
        (Runs(cross_check=True, subject=False), "conversion"),
        (Runs(cross_check=True, subject=True), "conversion and kernel"),
        (Runs(cross_check=True), "conversion"),
        (Runs(), "kernel"),
    ],
)
def test_other_runs_decide_which_component_is_faulty(
    dense: Experiment, tmp_path: Path, runs: Runs, component: str
) -> None:
    diagnosis = analysis(dense, tmp_path, runs).diagnose()
    assert str(diagnosis).startswith(f"output head [{component}]: logits is nan; ")
    for spec in runs.specs:
        cross_check = isinstance(spec.subject, CrossCheck)
        assert spec.variant == ({} if cross_check else {"attention": "sdpa"}), "the subject in the variant that failed"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("right", "component"), [(True, "conversion"), (False, "kernel")])
def test_a_checkpoint_that_the_cross_check_refuses_is_judged_by_the_subject_itself(
    dense: Experiment, tmp_path: Path, right: bool, component: str
) -> None:
    converted = tmp_path / "converted"
    shutil.copytree(dense.converted, converted)
    metadata = converted / METADATA
    tree = yaml.safe_load(metadata.read_text())
    tree["config"]["base_model"]["embeddings"]["position_embeddings"] = {"enabled": True}
    metadata.write_text(yaml.safe_dump(tree))
    spec = ForwardSpec(ReferenceSubject(), str(converted), {})
    workdir = tmp_path / "work"
    workdir.mkdir()
    diagnosis = analysis(dense, workdir, Runs(subject=not right), spec=spec).diagnose()
    assert diagnosis.component == component
    assert ("position_embeddings" in diagnosis.reason) == right


def test_what_passed_in_float32_is_the_kernel_without_another_run(dense: Experiment, tmp_path: Path) -> None:
    runs = Runs()
    diagnosis = analysis(dense, tmp_path, runs, passed_in_float32=True).diagnose()
    assert (diagnosis.component, diagnosis.reason) == ("kernel", "the same checkpoint is right in float32")
    assert not runs.specs


def test_an_incomplete_trace_says_nothing_about_components(dense: Experiment, tmp_path: Path) -> None:
    problem = TensorProblem("missing_tensor", "decoder.1.mlp", "decoder.1.mlp is missing")
    runs = Runs()
    diagnosis = analysis(dense, tmp_path, runs, failed=compared(1.0, diff={"problems": (problem,)})).diagnose()
    assert str(diagnosis) == "layer 1, MLP: decoder.1.mlp is missing"
    assert not runs.specs
