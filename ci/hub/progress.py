"""How far a fetch is, as data, and a bar for whoever is watching. A fetch itself prints nothing."""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WINDOW = 5.0
"""Seconds over which the rate is taken."""


@dataclass(frozen=True)
class Progress:
    """One moment of a fetch: bytes done and in all, bytes a second (recent), seconds left (None: unknown yet).

    `phase` is "resolve", "wait" (another process fetches the same), "headers", "tensors", "files" or "done".
    """

    model_id: str
    phase: str
    done: int
    total: int
    rate: float = 0.0
    eta: float | None = None


class Meter:
    """Turns counts of bytes into `Progress` for a callback."""

    def __init__(
        self, model_id: str, callback: Callable[[Progress], None] | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._model_id, self._callback, self._clock = model_id, callback, clock
        self._seen: deque[tuple[float, int]] = deque()

    def __call__(self, phase: str, done: int = 0, total: int = 0) -> None:
        """Report where things stand."""
        if self._callback is None:
            return
        rate = self._rate(done)
        eta = (total - done) / rate if rate > 0 and total else None
        self._callback(Progress(self._model_id, phase, done, total, rate, eta))

    def _rate(self, done: int) -> float:
        now = self._clock()
        self._seen.append((now, done))
        while now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        return max(done - before, 0) / (now - then) if now > then else 0.0


@contextmanager
def terminal_progress(console: Any) -> Iterator[Callable[[Progress], None] | None]:
    """A callback that draws a bar with bytes, rate and time left on a rich Console; None where nobody is watching."""
    if not console.is_terminal:
        yield None
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TextColumn("{task.fields[eta]}"),
    )
    with bars.Progress(*columns, console=console, transient=True) as display:
        tasks: dict[str, bars.TaskID] = {}

        def show(moment: Progress) -> None:
            if moment.model_id not in tasks:
                tasks[moment.model_id] = display.add_task(moment.model_id, rate="", eta="")
            eta = "" if moment.eta is None else f"{int(moment.eta) // 60}:{int(moment.eta) % 60:02} left"
            display.update(
                tasks[moment.model_id],
                description=f"{moment.model_id} {moment.phase}",
                completed=moment.done,
                total=moment.total or None,
                rate=f"{moment.rate / 1e6:,.1f} MB/s" if moment.rate else "",
                eta=eta,
            )

        yield show
