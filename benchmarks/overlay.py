"""What the overlay of a commit costs: `python -m benchmarks.overlay --source CHECKOUT --python BASE_PYTHON`.

`BASE_PYTHON` is the interpreter of a base environment that is there already (`hub-tests env ls`). The seconds on the
clock are those of a build in the sandbox; a second build without one counts the processor time, because what runs in a
sandbox is no child that the system would count for us. `python -m benchmarks overlay` takes both from
HUB_TESTS_FAST_LLM_PATH and HUB_TESTS_FAST_LLM_PYTHON.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._figure import Figure, show
from ci.environments.description import load_description
from ci.environments.overlay import build_overlay
from ci.subjects.sandbox import Isolation, detect_isolation

TARGET = 30.0
"""Seconds on two cores."""
WHAT = "the overlay of a commit, with its base there"
NO_SANDBOX = Isolation(None, "switched off")


def figures() -> list[Figure]:
    """Measure Fast-LLM's checkout of the environment variables; nothing where they name none."""
    source, python = (os.environ.get(f"HUB_TESTS_FAST_LLM_{name}") for name in ("PATH", "PYTHON"))
    if not source or not python:
        print("overlay: not measured, name a checkout and the interpreter of a base environment", file=sys.stderr)
        return []
    return measure(Path(source), Path(python), "fast_llm")


def measure(source: Path, python: Path, environment: str) -> list[Figure]:
    """Build the overlay twice: in the sandbox against the clock, and without one for its processor time."""
    isolation = detect_isolation()
    wall, _ = _build(source, python, environment, isolation)
    _, processor = _build(source, python, environment, NO_SANDBOX)
    how = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {isolation.description}"
    return [
        Figure(f"{WHAT}: on the clock", wall, "≤", TARGET, "s", how),
        Figure(f"{WHAT}: processor time", processor, "≤", TARGET, "s", "without a sandbox"),
    ]


def _build(source: Path, python: Path, environment: str, isolation: Isolation) -> tuple[float, float]:
    """Return the seconds on the clock, and of processors."""
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        before, started = _processor_seconds(), time.perf_counter()
        build_overlay(python, load_description(environment), source, Path(scratch) / "overlay", isolation)
        return time.perf_counter() - started, _processor_seconds() - before


def _processor_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def main() -> int:
    """Measure what the options name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overlay", description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="the subject's checkout")
    parser.add_argument("--python", type=Path, required=True, help="the interpreter of its base environment")
    parser.add_argument("--environment", default="fast_llm", help="name or file of the description")
    options = parser.parse_args()
    return show(measure(options.source, options.python, options.environment))


if __name__ == "__main__":
    sys.exit(main())
