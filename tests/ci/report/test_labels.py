from typing import get_args

from ci.evidence import FailureClass
from ci.report import labels
from ci.report.results import Change, Outcome, Verdict


def test_every_class_outcome_verdict_and_change_has_its_word_and_sign() -> None:
    assert set(labels.CLASSES) == set(get_args(FailureClass))
    assert set(labels.OUTCOMES) == set(labels.OUTCOME_ICONS) == set(get_args(Outcome))
    assert set(labels.ICONS) == set(get_args(Verdict))
    assert set(labels.SIGNS) == set(get_args(Outcome)) | set(get_args(Verdict))
    assert set(labels.CHANGES) == set(get_args(Change))


def test_no_two_classes_share_a_word() -> None:
    assert len(set(labels.CLASSES.values())) == len(labels.CLASSES)
