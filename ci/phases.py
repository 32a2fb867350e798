"""Where the seconds of a run go: one record a phase, and the clock that measures them.

This module imports no heavy library: the suite, the report and a subject's worker use it.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ci.records import STRICT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Phase = Literal["fetch", "start", "load", "convert", "forward", "compile", "compare", "other"]

PHASES: tuple[Phase, ...] = ("fetch", "start", "load", "convert", "forward", "compile", "compare", "other")
"""In the order in which a job goes through them.

`fetch` gets the checkpoint or checks the stored one, `start` starts processes and imports libraries, `load` reads a
model to its device, `convert` imports or exports a checkpoint, `compile` is the part of a forward pass that compiles
kernels, `compare` compares tensors, and `other` is everything else: traces on disk, hashes, pytest.
"""

TRACE_FILES = "trace files"
"""Detail of `other`: writing a trace and taking it over from the subject."""


@dataclass(frozen=True)
class PhaseTime:
    """The seconds of one phase; `detail` says of what: `Hugging Face float64`, `subject bfloat16 moe=looped`.

    `beside` are further seconds of the same work that ran beside other phases: they are not part of the wall time.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    phase: Phase
    detail: str = ""
    seconds: float = 0.0
    beside: float = 0.0


Key = tuple[Phase, str]


@dataclass
class Measured:
    """A block that is being measured; `split` gives parts of its seconds to other phases."""

    claims: dict[Key, float] = field(default_factory=dict)
    rest: Key | None = None

    def split(self, claims: Mapping[Key, float], *, rest: Key) -> None:
        """Give seconds that the measured code reported to phases, and what is left to `rest`.

        The reported seconds may be any number: each counts at most what the block has left.
        """
        self.claims, self.rest = dict(claims), rest


class PhaseClock:
    """Adds up the seconds of phases. A block inside another one counts for its own phase only.

    What other threads than the clock's own measure ran beside it, and is kept apart. `listener` is called with the
    phase and the detail of the own thread whenever they change, with None where no block is measured.
    """

    def __init__(self, listener: Callable[[Key | None], None] | None = None) -> None:
        """Begin with no seconds; the thread that makes the clock owns it."""
        self.listener = listener
        self._owner = threading.get_ident()
        self._lock = threading.Lock()
        self._sums: dict[Key, list[float]] = {}
        self._waiting_since = math.inf
        self._passed_on = 0.0
        self._local = threading.local()

    @contextmanager
    def measure(self, phase: Phase, detail: str = "") -> Iterator[Measured]:
        """Count the time of the block for a phase, without what inner blocks count for theirs."""
        outer_key, outer_inner = getattr(self._local, "key", None), getattr(self._local, "inner", 0.0)
        measured, started = Measured(), time.perf_counter()
        self._local.inner = 0.0
        self._enter((phase, detail))
        try:
            yield measured
        finally:
            wall = time.perf_counter() - started
            self._add_parts((phase, detail), measured, wall - self._local.inner)
            self._local.inner = outer_inner + wall
            self._enter(outer_key)

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Wait for another thread, whose seconds then count as the wall time's."""
        with self.measure("other", "waiting"):
            self._waiting_since, self._passed_on = time.perf_counter(), 0.0
            try:
                yield
            finally:
                self._waiting_since = math.inf
                self._local.inner += self._passed_on

    def take(self) -> tuple[PhaseTime, ...]:
        """Return and forget what was measured since the last call, in the phases' order."""
        with self._lock:
            sums, self._sums = self._sums, {}
        times = [PhaseTime(*key, seconds=own, beside=beside) for key, (own, beside) in sums.items()]
        return tuple(sorted(times, key=lambda one: PHASES.index(one.phase)))

    def _enter(self, key: Key | None) -> None:
        self._local.key = key
        if self.listener is not None and threading.get_ident() == self._owner:
            self.listener(key)

    def _add_parts(self, key: Key, measured: Measured, left: float) -> None:
        own = 1.0 if threading.get_ident() == self._owner else self._share_waited_for(left)
        for part, claimed in measured.claims.items():
            seconds = bound_seconds(claimed, left)
            self._add(part, seconds, own)
            left -= seconds
        self._add(measured.rest or key, max(0.0, left), own)

    def _share_waited_for(self, seconds: float) -> float:
        """Return the share of the seconds, 0 to 1, for which the own thread waited."""
        waited = bound_seconds(time.perf_counter() - self._waiting_since, seconds)
        return waited / seconds if seconds > 0 else 0.0

    def _add(self, key: Key, seconds: float, own: float) -> None:
        with self._lock:
            sums = self._sums.setdefault(key, [0.0, 0.0])
            sums[0] += seconds * own
            sums[1] += seconds * (1 - own)
            if threading.get_ident() != self._owner:
                self._passed_on += seconds * own


def bound_seconds(claimed: float, most: float) -> float:
    """Return reported seconds as a number from 0 to `most`; one that is not finite counts as 0."""
    return min(max(claimed, 0.0), max(most, 0.0)) if math.isfinite(claimed) else 0.0


def claim_forward(who: str, *, load: float, forward: float, compiling: float = 0.0) -> dict[Key, float]:
    """Return the claims of a traced forward pass: compilation is a part of its seconds."""
    compiling = bound_seconds(compiling, forward if math.isfinite(forward) else 0.0)
    return {("load", who): load, ("compile", who): compiling, ("forward", who): forward - compiling}
