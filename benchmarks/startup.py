"""What `hub-tests --help` costs, against a Python that does nothing."""

from __future__ import annotations

import sys

from benchmarks._figure import Figure, show
from benchmarks._process import measure_process

ROUNDS = 7
TARGET = 30.0


def figures() -> list[Figure]:
    """Compare the processor time of the best of several starts with the bare interpreter's best."""
    rounds = [(measure_process(["-m", "ci", "--help"]).cpu, measure_process(["-c", "pass"]).cpu) for _ in range(ROUNDS)]
    help_seconds, bare_seconds = (min(seconds) for seconds in zip(*rounds, strict=True))
    how = f"processor time, best of {ROUNDS}: {help_seconds:.3f} s against {bare_seconds:.3f} s"
    return [Figure("hub-tests --help ÷ bare interpreter", help_seconds / bare_seconds, "≤", TARGET, how=how)]


if __name__ == "__main__":
    sys.exit(show(figures()))
