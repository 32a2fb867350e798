"""How long `hub-tests --help` takes."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks._figure import Figure, show

ROUNDS = 7


def figures() -> list[Figure]:
    """The best of several, against the bare interpreter's best."""
    helped, bare = (_best([sys.executable, *words]) for words in (["-m", "ci", "--help"], ["-c", "pass"]))
    how = f"best of {ROUNDS}; {helped / bare:.1f} times the bare interpreter's {bare:.3f} s"
    return [Figure("hub-tests --help", helped, "≤", 0.4, "s", how)]


def _best(command: list[str]) -> float:
    return min(_seconds(command) for _ in range(ROUNDS))


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(show(figures()))
