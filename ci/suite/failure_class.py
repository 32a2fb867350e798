"""The failure class of an exception that ended a step of the suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.errors import GatedError, HubTestsError, InfrastructureError, OwnLimitError, SubjectError
from ci.evidence import SUBJECT_FAILURES
from ci.suite.cached_step import StepFailedError

if TYPE_CHECKING:
    from ci.evidence import FailureClass


def classify_failure(error: BaseException) -> FailureClass:
    """Return the failure class of an exception that ended a step.

    No failure of the Hub, the disk or the request blames the subject.
    """
    if isinstance(error, StepFailedError):
        if error.step == "test_download_and_truncate" and isinstance(error.error, InfrastructureError):
            return "hub_unavailable"
        return classify_failure(error.error)
    if isinstance(error, SubjectError):
        return SUBJECT_FAILURES.get(error.failure, "other")
    if isinstance(error, GatedError):
        return "gated"
    if isinstance(error, OwnLimitError):
        return error.failure_class
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    return "environment" if isinstance(error, HubTestsError) else "other"
