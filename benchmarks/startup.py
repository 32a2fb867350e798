"""How long `hub-tests --help` takes, against a Python that does nothing."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks._figure import Figure, show

ROUNDS = 7
TARGET = 30.0


def figures() -> list[Figure]:
    """Compare the best of several starts with the bare interpreter's best."""
    help_seconds, bare_seconds = (_best([sys.executable, *words]) for words in (["-m", "ci", "--help"], ["-c", "pass"]))
    how = f"best of {ROUNDS}: {help_seconds:.3f} s against {bare_seconds:.3f} s"
    return [Figure("hub-tests --help ÷ bare interpreter", help_seconds / bare_seconds, "≤", TARGET, how=how)]


def _best(command: list[str]) -> float:
    return min(_seconds(command) for _ in range(ROUNDS))


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(show(figures()))
