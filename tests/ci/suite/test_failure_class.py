import pytest

from ci.errors import (
    GatedError,
    InfrastructureError,
    NotTruncatableError,
    QuantizedError,
    RemoteCodeError,
    RequestError,
    SubjectError,
    UnsupportedError,
)
from ci.subjects.failure import SubjectCrashError, SubjectOutOfMemoryError, SubjectTimeoutError
from ci.suite.cached_step import StepFailedError
from ci.suite.failure_class import classify_failure


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GatedError("g"), "gated"),
        (StepFailedError("test_download_and_truncate", GatedError("g")), "gated"),
        (StepFailedError("test_download_and_truncate", InfrastructureError("away")), "hub_unavailable"),
        (StepFailedError("test_download_and_truncate", NotTruncatableError("no rule")), "not_truncatable"),
        (StepFailedError("test_download_and_truncate", RequestError("99 layers")), "environment"),
        (StepFailedError("test_conversion", NotTruncatableError("no rule")), "not_truncatable"),
        (StepFailedError("test_conversion", InfrastructureError("disk full")), "environment"),
        (StepFailedError("test_conversion", UnsupportedError("rope type")), "unsupported"),
        (SubjectError("refused"), "other"),
        (SubjectCrashError("SIGSEGV"), "crash"),
        (SubjectTimeoutError("hung"), "timeout"),
        (SubjectOutOfMemoryError("full"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (AssertionError("wrong"), "other"),
        (RequestError("bad option"), "environment"),
        (StepFailedError("test_download_and_truncate", RemoteCodeError("own code")), "remote_code"),
        (StepFailedError("test_download_and_truncate", QuantizedError("codes")), "quantized"),
    ],
)
def test_a_subject_is_never_excused_and_infrastructure_never_blamed(error: Exception, said: str) -> None:
    assert classify_failure(error) == said
