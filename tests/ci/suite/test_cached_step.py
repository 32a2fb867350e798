import pytest

from ci.errors import InfrastructureError
from ci.suite.cached_step import CachedStep, StepFailedError


def test_a_steps_value_is_kept() -> None:
    step = CachedStep[int]("test_conversion")
    assert [step.run(lambda: 3), step.run(lambda: 4)] == [3, 3]
    assert step.value == 3


def test_a_steps_failure_is_kept_and_names_the_step_that_failed_first() -> None:
    runs = []

    def fail() -> int:
        runs.append(1)
        raise InfrastructureError("away")

    fetch, convert = CachedStep[int]("test_download_and_truncate"), CachedStep[int]("test_conversion")
    for _ in range(2):
        with pytest.raises(StepFailedError, match="away") as failed:
            convert.run(lambda: fetch.run(fail))
        assert failed.value.step == "test_download_and_truncate"
    assert runs == [1]
