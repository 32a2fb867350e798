"""A step that runs once, and whose value or failure every later user shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.evidence import Step

T = TypeVar("T")


class StepFailedError(Exception):
    """An earlier step failed; `step` and `error` say which and why."""

    def __init__(self, step: Step, error: Exception) -> None:
        """Keep which step failed and its error."""
        super().__init__(f"{step} failed: {error}")
        self.step = step
        self.error = error


class CachedStep(Generic[T]):
    """A step that runs on first use; its value, or its failure, is kept for later uses."""

    def __init__(self, step: Step) -> None:
        """Keep the step's name only: kept work would make a reference cycle with the pipeline."""
        self.value: T | None = None
        self._failure: StepFailedError | None = None
        self._step = step

    def run(self, work: Callable[[], T]) -> T:
        """Return the step's value; call `work` on first use.

        Raises StepFailedError if this step, or one that it needs, failed.
        """
        if self._failure is not None:
            raise self._failure
        if self.value is None:
            try:
                self.value = work()
            except StepFailedError as earlier:
                self._failure = earlier
                raise
            except Exception as error:  # kept, and raised again for each test that needs the step
                self._failure = StepFailedError(self._step, error)
                raise self._failure from error
        return self.value
