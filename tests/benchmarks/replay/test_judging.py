"""What the replay makes of a check: verdicts and the subject's own errors are findings."""

from __future__ import annotations

import pytest

from benchmarks.replay.judging import catch
from ci.equivalence.verdict import Verdict
from ci.errors import InfrastructureError, UnsupportedError


def test_a_red_verdict_is_a_red_finding_with_its_place() -> None:
    verdict = Verdict(False, "numeric_mismatch", "layer 1, key", component="kernel", layer=1, operation="key")
    finding = catch("float32", lambda: verdict)
    assert (finding.passed, finding.failure_class) == (False, "numeric_mismatch")
    assert (finding.layer, finding.operation, finding.component) == (1, "key", "kernel")


def test_what_the_subject_refuses_is_a_red_finding() -> None:
    def refuse() -> None:
        raise UnsupportedError("no such key")

    finding = catch("convert", refuse)
    assert (finding.passed, finding.failure_class, finding.diagnosis) == (False, "unsupported", "no such key")


def test_what_is_not_the_subject_is_no_finding() -> None:
    def fail() -> None:
        raise InfrastructureError("disk full")

    with pytest.raises(InfrastructureError):
        catch("convert", fail)


def test_a_check_that_passes_is_green() -> None:
    assert catch("convert", lambda: None).passed
    assert catch("model", lambda: Verdict(passed=True)).passed
