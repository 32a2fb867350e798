"""The processor time of one process, which other load on the machine hardly changes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessCost:
    """Processor seconds of a process, its start and end included, and what it printed."""

    cpu: float
    output: str


def measure_process(words: list[str]) -> ProcessCost:
    """Run a fresh interpreter with these arguments and return its cost. Exit if it fails."""
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {' '.join(words)} ended with exit code {process.returncode}")
    return ProcessCost(usage.ru_utime + usage.ru_stime, output)
