"""A right resume is green; one that goes on from another state, and a checkpoint that damage does not stop, are red."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.mutation.training_faults import FAULTS
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment


def test_a_right_resume_and_a_right_change_of_layout_are_green(trained: Experiment) -> None:
    judge = trained.judge(ReferenceSubject(), trained.converted)
    verdict = judge.check_resume()
    assert verdict.passed, verdict.diagnosis
    assert "2 damaged checkpoints" in verdict.coverage["resume"]
    verdict = judge.check_layout_conversion(("tp2", "zero2", "pp2_tied"))
    assert verdict.passed, verdict.diagnosis
    assert "needs tied embeddings" in verdict.coverage["layout pp2_tied"]


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.check == "resume"], ids=lambda f: f.name.replace(" ", "-"))
def test_a_resume_that_loses_something_is_red(fault: object, trained: Experiment) -> None:
    from benchmarks.training import run_fault

    result = run_fault(fault, trained.judge(ReferenceSubject(), trained.converted))  # type: ignore[arg-type]
    assert result.named, result.diagnosis
