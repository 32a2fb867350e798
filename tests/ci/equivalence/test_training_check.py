"""Steps in the reference's layouts are right, and the ones that a model cannot have are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.errors import NotOfferedError, UnsupportedError
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment


@pytest.mark.parametrize("layout", ["single", "tp2", "pp2", "dp2", "zero2"])
def test_a_right_step_is_green(layout: str, trained: Experiment) -> None:
    verdict = trained.judge(ReferenceSubject(), trained.converted).check_training(layout)
    assert verdict.passed, verdict.diagnosis
    assert verdict.worst is not None
    assert verdict.worst.used < 0.6
    assert verdict.coverage["layout"].startswith(layout)
    assert verdict.ran["layout"] == layout


def test_a_layout_that_is_not_offered_is_refused_by_name(trained: Experiment) -> None:
    judge = trained.judge(ReferenceSubject(), trained.converted)
    with pytest.raises(UnsupportedError, match="layout sdp2 is not offered"):
        judge.check_training("sdp2")
    with pytest.raises(UnsupportedError, match="needs tied embeddings"):
        judge.check_training("pp2_tied")


def test_a_subject_that_cannot_train_is_not_offered(trained: Experiment) -> None:
    class Silent:
        def release(self) -> None:
            """Nothing is loaded."""

    with pytest.raises(NotOfferedError, match="does not offer training steps"):
        trained.judge(Silent(), trained.converted).check_training("single")  # type: ignore[arg-type]
