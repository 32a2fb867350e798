"""Says in one line why a run over several ranks failed: which rank is the cause, and where each one was. No I/O.

When one rank ends, the others fail in their next collective with "Connection closed by peer": those are consequences.
A rank that died by a signal or that raised anything else is the cause. Where no rank did, they wait for one another.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.subjects.failure import ERRORS, Failure, SubjectCrashError, SubjectTimeoutError, to_one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci.errors import HubTestsError

CONSEQUENCE = re.compile(
    "connection (was likely )?(closed|reset|refused|lost)|broken pipe|socket (closed|error)|failed to recv"
    "|recvvalue failed|remote process exited|heartbeat",
    re.IGNORECASE,
)
"""What gloo, NCCL and the store say when another rank is gone."""
WAITED = re.compile("timed? ?out|wait timeout|timeout", re.IGNORECASE)
"""What they say when another rank did not come in time."""
COLLECTIVE = re.compile(
    r"_?(all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|broadcast|gather|scatter)(_\w*)?"
    r"|(\w*_)?barrier|i?send|i?recv|reduce",
)
"""Names of functions that wait for other ranks, in torch.distributed and in frameworks."""
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<function>.*)$')


@dataclass(frozen=True)
class Frame:
    """One call of a stack: file, line and the function's name."""

    file: str
    line: int
    function: str


@dataclass(frozen=True)
class RankEnd:
    """How one rank ended: `code` as wait(2) has it, negative for a signal; None where it had to be killed.

    `failure` and `message` are what it raised, `place` where that or its last known call was, `said` its last line.
    """

    rank: int
    code: int | None
    failure: Failure | None = None
    message: str = ""
    place: str = ""
    said: str = ""

    @property
    def fine(self) -> bool:
        """Whether the rank finished its work."""
        return self.code == 0

    @property
    def cause(self) -> int:
        """Rank the likelihood that this end is the cause of the others: 0 is most likely."""
        if self.code is not None and self.code < 0:
            return 0 if not self.failure else 1
        if self.code is None or self.fine:
            return 3
        if CONSEQUENCE.search(self.message):
            return 4
        return 2 if WAITED.search(self.message) else 1


def make_rank_error(ends: Sequence[RankEnd], seconds: float) -> HubTestsError:
    """Return the error of a run in which at least one rank did not finish; `seconds` was its limit of time."""
    first = min(ends, key=lambda end: (end.cause, end.rank))
    of = f"of {len(ends)}"
    if first.cause == 0:
        return SubjectCrashError(to_one_line(f"rank {first.rank} {of} {_describe_death(first)}"))
    if first.cause == 1:
        kind = ERRORS[first.failure or "error"]
        same = bool(first.message) and all(end.message == first.message for end in ends)
        said = f": {first.said}" if first.said else " without a message"
        message = first.message or f"exited with code {first.code}{said}"
        return kind(to_one_line(message if same else f"rank {first.rank} {of}: {message}"))
    waits = "; ".join(describe_end(end) for end in ends)
    if any(end.code is None for end in ends) and not any(WAITED.search(end.message) for end in ends):
        return SubjectTimeoutError(to_one_line(f"the ranks did not finish within {seconds:g} s: {waits}"))
    return SubjectTimeoutError(to_one_line(f"the ranks waited for one another: {waits}"))


def describe_end(end: RankEnd) -> str:
    """Describe one rank's end in a few words."""
    if end.fine:
        return f"rank {end.rank} ended"
    if end.code is None:
        return f"rank {end.rank} {end.place or 'was at an unknown place'}"
    if end.code < 0:
        return f"rank {end.rank} {_describe_death(end)}"
    at = f" ({end.place})" if end.place and end.place not in end.message else ""
    return f"rank {end.rank}: {to_one_line(end.message or end.said, 160)}{at}"


def _describe_death(end: RankEnd) -> str:
    number = -(end.code or 0)
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    why = " (probably out of memory)" if name == "SIGKILL" else ""
    parts = [f"was killed by {name}{why}", end.place, end.said]
    return ": ".join(to_one_line(part, 200) for part in parts if part)


def read_stack(text: str) -> list[Frame]:
    """Read a stack that `faulthandler` wrote, innermost call first.

    Of several threads it is the one that is in a collective, else the main one, which comes last.
    """
    threads: list[list[Frame]] = []
    for line in text.splitlines():
        if frame := _FRAME.match(line):
            if threads:
                threads[-1].append(Frame(frame["file"], int(frame["line"]), frame["function"]))
        elif "most recent call first" in line:
            threads.append([])
    waiting = [frames for frames in threads if _find_collective(frames)]
    return (waiting or threads or [[]])[-1]


def describe_place(frames: Sequence[Frame]) -> str:
    """Describe where a rank is: the collective that it waits in, and the innermost line outside of torch.

    `frames` are innermost first. For example "waits in all_reduce at pkg/reduce.py:12 (reduce_gradients)".
    """
    own = next((frame for frame in frames if not _is_library(frame)), None)
    if own is None:
        return ""
    at = f"at {shorten_file(own.file)}:{own.line} ({own.function})"
    if collective := _find_collective(frames):
        return f"waits in {collective} {at}"
    return f"was {at}"


def shorten_file(file: str) -> str:
    """Return a file's last three names: the directories above say nothing about the program."""
    return "/".join(Path(file).parts[-3:])


def _find_collective(frames: Iterable[Frame]) -> str:
    return next((frame.function for frame in frames if COLLECTIVE.fullmatch(frame.function)), "")


def _is_library(frame: Frame) -> bool:
    parts = Path(frame.file).parts
    return "torch" in parts or frame.file.startswith("<") or parts[-1:] in (("contextlib.py",), ("threading.py",))
