"""Starts a function on several ranks, waits for all of them, and says in one line which rank failed and where.

    results = run_ranks(work, 2, request, seconds=120)     # work(rank, request) on each of two processes

Whatever happens, no rank outlives the call. Ranks belong to the caller's process group, so that whoever kills the
group kills them as well.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.subjects.rank_failure import RankEnd, describe_place, make_rank_error, read_stack
from ci.subjects.rank_process import STACK_SIGNAL, Rank, fork_rank, spawn_rank

if TYPE_CHECKING:
    from ci.subjects.rank_process import Work

GRACE_SECONDS = 5.0
"""How long the other ranks may take to fail after one did: their own messages tell more than a kill."""
COLLECTIVE_SHARE = 0.5
"""The part of the limit that one collective may wait: below the whole, so that ranks end by themselves."""
STACK_SECONDS = 3.0
POLL_SECONDS = 0.02
LOG_BYTES = 64 * 2**10


def run_ranks(work: Work, count: int, *arguments: Any, seconds: float, fork: bool = True) -> list[Any]:
    """Run `work(rank, *arguments)` on `count` processes and return each rank's result, in order.

    With `fork` a rank starts with everything that is imported here; without, `work` and `arguments` are pickled for new
    interpreters: so it must be with CUDA. Results are pickled. Raises the class of the error of the rank that failed,
    SubjectCrashError for one that died, SubjectTimeoutError after `seconds`.
    """
    folder = Path(tempfile.mkdtemp(prefix="ranks."))
    ranks = [Rank(number, count, folder, seconds * COLLECTIVE_SHARE) for number in range(count)]
    group = _Group(ranks, time.monotonic() + seconds)
    try:
        for rank in ranks:
            group.processes[rank.number] = (fork_rank if fork else spawn_rank)(rank, work, arguments)
        group.wait()
        ends = [group.read_end(rank) for rank in ranks]
        if not all(end.fine for end in ends):
            raise make_rank_error(ends, seconds)
        return [pickle.loads(rank.path("result").read_bytes()) for rank in ranks]  # noqa: S301 (our own forks wrote it)
    finally:
        group.kill()
        _copy_logs(ranks)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Group:
    """Running ranks: `processes` maps a rank to its process, `codes` to how it ended; None where it was killed."""

    ranks: Sequence[Rank]
    deadline: float
    processes: dict[int, int] = field(default_factory=dict)
    codes: dict[int, int | None] = field(default_factory=dict)

    def wait(self) -> None:
        """Wait until all ranks ended or the limit of time is over; stop what still runs, and keep its stack."""
        deadline = self.deadline
        while self._poll() and time.monotonic() < deadline:
            if any(self.codes.values()):
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            time.sleep(POLL_SECONDS)
        if running := self._poll():
            self._write_stacks(running)
            self.kill()

    def kill(self) -> None:
        """Kill and reap every rank that still runs."""
        for number in self._poll():
            with suppress(ProcessLookupError):
                os.kill(self.processes[number], signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.processes[number], 0)
            self.codes[number] = None

    def read_end(self, rank: Rank) -> RankEnd:
        """Read from a rank's files how it ended."""
        code = self.codes[rank.number]
        error = _read_error(rank) if code else {}
        stack = describe_place(read_stack(_read_tail(rank.path("stack"))))
        return RankEnd(
            rank.number,
            code,
            failure=error.get("failure"),
            message=error.get("message", ""),
            place=error.get("place") or stack,
            said="" if code == 0 else _find_last_line(_read_tail(rank.path("log"))),
        )

    def _poll(self) -> list[int]:
        """Reap what ended; return the ranks that still run."""
        for number in [number for number in self.processes if number not in self.codes]:
            try:
                pid, status = os.waitpid(self.processes[number], os.WNOHANG)
            except ChildProcessError:  # somebody else reaped it: nothing is known of its end
                pid, status = 1, 0xFF00
            if pid:
                self.codes[number] = os.waitstatus_to_exitcode(status)
        return [number for number in self.processes if number not in self.codes]

    def _write_stacks(self, running: Sequence[int]) -> None:
        """Let each running rank write its stack. `faulthandler` answers even in the middle of a C++ call."""
        before = {number: self._stack_size(number) for number in running}
        for number in running:
            with suppress(ProcessLookupError):
                os.kill(self.processes[number], STACK_SIGNAL)
        until = time.monotonic() + STACK_SECONDS
        while time.monotonic() < until and any(self._stack_size(number) == size for number, size in before.items()):
            time.sleep(POLL_SECONDS)

    def _stack_size(self, number: int) -> int:
        path = self.ranks[number].path("stack")
        return path.stat().st_size if path.exists() else 0


def _read_error(rank: Rank) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        error = json.loads(rank.path("error").read_text(encoding="utf-8"))
        return error if isinstance(error, dict) else {}
    return {}


def _read_tail(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
        return file.read().decode("utf-8", "replace")
    return ""


def _find_last_line(text: str) -> str:
    """Return the last line that says something: of a C++ death the one with the exception's text."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "what():" in line), lines[-1] if lines else "")


def _copy_logs(ranks: Sequence[Rank]) -> None:
    """Copy the end of each rank's output to this process's, where the worker's log keeps it."""
    for rank in ranks:
        for line in _read_tail(rank.path("log")).splitlines():
            print(f"[rank {rank.number}] {line}", file=sys.stderr)
