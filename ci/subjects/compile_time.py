"""Counts the seconds that a forward pass spends on compiling, by the counters of torch and of Triton."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MICROSECONDS = 1e-6


@dataclass
class CompileTime:
    """Seconds of compilation; filled in at the end of the measured block."""

    seconds: float = 0.0


@contextmanager
def count_compilation() -> Iterator[CompileTime]:
    """Count what torch.compile and Triton compile in the block.

    A Triton kernel that torch compiles is part of torch's own time. A version without these counters counts 0.
    https://docs.pytorch.org/docs/stable/torch.compiler_troubleshooting.html
    """
    time, before = CompileTime(), _read_torch()
    try:
        with _listen_to_triton(time):
            yield time
    finally:
        time.seconds += max(0.0, _read_torch() - before)


def _read_torch() -> float:
    """Return the seconds that torch.compile has taken in this process until now."""
    utils = sys.modules.get("torch._dynamo.utils")
    spent = getattr(utils, "cumulative_time_spent_ns", {})
    return float(spent.get("entire_frame_compile", 0)) / 1e9


@contextmanager
def _listen_to_triton(time: CompileTime) -> Iterator[None]:
    """Add what Triton compiles outside of torch.compile; a listener that is there already is called too."""
    knobs = getattr(sys.modules.get("triton.knobs"), "compilation", None)
    if knobs is None or not hasattr(knobs, "listener"):
        yield
        return
    before = knobs.listener

    def listen(**compiled: Any) -> None:
        if not _is_torch_compiling():
            time.seconds += float(getattr(compiled.get("times"), "total", 0)) * MICROSECONDS
        if before is not None:
            before(**compiled)

    knobs.listener = listen
    try:
        yield
    finally:
        knobs.listener = before


def _is_torch_compiling() -> bool:
    guards = sys.modules.get("torch._guards")
    return guards is not None and guards.CompileContext.try_get() is not None
