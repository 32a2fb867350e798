"""How often and how long the Hub is tried."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError

if TYPE_CHECKING:
    from ci.hub.remote import Hub


@dataclass(frozen=True)
class Patience:
    """`tries` without a byte of progress end in an error; waits grow from `first` to `longest` seconds, with jitter.

    `timeout` is the silence in seconds after which a connection counts as broken.
    """

    tries: int = 6
    first: float = 1.0
    longest: float = 30.0
    timeout: float = 30.0


class Retry:
    """The tries left for one thing that is asked of the Hub."""

    def __init__(self, hub: Hub, *, what: str) -> None:
        self._hub, self._what, self._failed = hub, what, 0

    def progress(self) -> None:
        """Bytes came: start counting anew."""
        self._failed = 0

    def pause(self, problem: Exception) -> None:
        """Wait before the next try; InfrastructureError when there is none."""
        self._failed += 1
        patience = self._hub.patience
        if self._failed >= patience.tries:
            text = str(problem) or type(problem).__name__
            hint = f"check the network to {self._hub.endpoint} and try again (what arrived is kept)"
            raise InfrastructureError(f"{self._what}: {text}, {self._failed} times in a row; {hint}") from None
        wait = getattr(problem, "wait", None)
        if wait is None:
            wait = min(patience.first * 2 ** (self._failed - 1), patience.longest)
        self._hub.wait(wait * random.uniform(1.0, 1.5))  # noqa: S311 - jitter: runners behind one address come apart
