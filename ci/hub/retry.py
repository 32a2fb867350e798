"""How often a request to the Hub is tried again, and how long it waits between tries."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from ci.hub.responses import RefusedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class RetryPolicy:
    """The limits of retrying.

    `tries` failures without progress end in an error. Waits grow from `first` to `longest` seconds, with jitter.
    """

    tries: int = 6
    first: float = 1.0
    longest: float = 30.0


class RetryState:
    """The failures in a row of one request. `sleep` waits a number of seconds and may raise to stop."""

    def __init__(self, policy: RetryPolicy, sleep: Callable[[float], None], *, what: str, endpoint: str) -> None:
        self._policy, self._sleep, self._what, self._endpoint = policy, sleep, what, endpoint
        self._failures = 0

    def reset(self) -> None:
        """Forget earlier failures, because bytes arrived."""
        self._failures = 0

    def wait_or_raise(self, problem: Exception) -> None:
        """Count a failure and wait before the next try.

        Raises InfrastructureError when no try is left, or the error of a RefusedError.
        """
        self._failures += 1
        if self._failures >= self._policy.tries:
            if isinstance(problem, RefusedError):
                raise problem.error from None
            text = str(problem) or type(problem).__name__
            hint = f"check the network to {self._endpoint} and run it again (received data is kept)"
            raise InfrastructureError(f"{self._what}: {text}, {self._failures} times in a row; {hint}") from None
        wait = problem.wait if isinstance(problem, TransientError) else None
        if wait is None:
            wait = min(self._policy.first * 2 ** (self._failures - 1), self._policy.longest)
        # Jitter spreads out runners that share one address.
        self._sleep(wait * random.uniform(1.0, 1.5))  # noqa: S311 - no secret depends on it
