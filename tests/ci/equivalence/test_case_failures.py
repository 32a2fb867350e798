"""An error of one input or check is told and fails, and hides nothing of the others."""

from __future__ import annotations

import pytest

from ci.equivalence.case_failures import CaseFailures, add_failures, check_each, classify_error
from ci.equivalence.verdict import Verdict
from ci.errors import InfrastructureError, NotOfferedError, RequestError, SubjectError
from ci.subjects.failure import ERRORS, SubjectCrashError, SubjectTimeoutError

RIGHT = Verdict(passed=True, coverage={"inputs": "batch, text"})
WRONG = Verdict(passed=False, failure_class="numeric_mismatch", diagnosis="wrong norm")


def keep(**errors: Exception) -> CaseFailures:
    failures = CaseFailures()
    for name, error in errors.items():
        with failures.keep(name):
            raise error
    return failures


def test_without_an_error_the_verdict_stays() -> None:
    assert add_failures(RIGHT, CaseFailures(), ["batch"]) is RIGHT


def test_a_right_verdict_fails_and_says_what_is_right() -> None:
    verdict = add_failures(
        RIGHT, keep(text=SubjectError("no image"), long=SubjectError("no image")), ["batch", "alone"]
    )
    assert (verdict.passed, verdict.failure_class) == (False, "other")
    assert verdict.diagnosis == "the forward pass of 'text', 'long' failed: no image; right: batch, alone"
    assert verdict.coverage == {"inputs": "batch, text", "failed inputs": "not covered: text, long"}


def test_what_is_wrong_comes_first() -> None:
    verdict = add_failures(WRONG, keep(text=SubjectCrashError("it died")), ["batch"])
    assert verdict.failure_class == "numeric_mismatch"
    assert verdict.diagnosis == "wrong norm; then the forward pass of 'text' failed: it died"


def test_a_subject_is_not_blamed_for_the_machine() -> None:
    assert add_failures(RIGHT, keep(long=InfrastructureError("no memory")), ["batch"]).failure_class == "environment"
    both = keep(long=InfrastructureError("no memory"), text=SubjectCrashError("it died"))
    assert add_failures(RIGHT, both, ["batch"]).failure_class == "crash"


def test_an_error_of_the_request_is_raised_at_once() -> None:
    with pytest.raises(RequestError), CaseFailures().keep("batch"):
        raise RequestError("no such model")


def test_after_a_timeout_the_rest_is_named() -> None:
    failures = keep(batch=SubjectTimeoutError("killed"))
    assert failures.ended
    failures.left_out.append("long")
    assert failures.describe() == "the forward pass of 'batch' failed: killed; not run after that: long"
    assert add_failures(RIGHT, failures, ["alone"]).coverage["failed inputs"] == "not covered: batch, long"


@pytest.mark.parametrize("kind", ERRORS.values())
def test_only_errors_of_a_subject_blame_it(kind: type[Exception]) -> None:
    blamed = classify_error(kind("said")) != "environment"  # type: ignore[arg-type]
    assert blamed == issubclass(kind, SubjectError)


def fail(error: Exception) -> Verdict:
    raise error


def test_each_check_has_a_verdict_in_order() -> None:
    checks = {"float32": lambda: fail(SubjectCrashError("it died")), "bfloat16": lambda: RIGHT}
    first, second = check_each(checks)
    assert (first.passed, first.failure_class, first.diagnosis) == (False, "crash", "float32: it died")
    assert second is RIGHT


def test_where_no_check_has_a_verdict_the_first_error_is_raised() -> None:
    with pytest.raises(NotOfferedError, match="no training"):
        check_each({"a": lambda: fail(NotOfferedError("no training")), "b": lambda: fail(SubjectError("other"))})


def test_after_a_timeout_no_other_check_runs() -> None:
    checks = {"a": lambda: RIGHT, "b": lambda: fail(SubjectTimeoutError("killed")), "c": lambda: fail(ValueError())}
    first, second = check_each(checks)
    assert (first.passed, second.diagnosis) == (True, "b: killed; not run after that: c")
