"""What went wrong with a subject: a class for machines and one line for people. Standard library only."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path
from typing import Literal, get_args

from ci.errors import HubTestsError, InfrastructureError, NotOfferedError, RequestError, SubjectError, UnsupportedError

Failure = Literal[
    "unsupported",
    "not_offered",
    "error",
    "crash",
    "timeout",
    "out_of_memory",
    "protocol",
    "request",
    "infrastructure",
]
FAILURES: tuple[Failure, ...] = get_args(Failure)
LONGEST = 600


class SubjectCrashError(SubjectError):
    """The subject's process died."""

    failure = "crash"


class SubjectTimeoutError(SubjectError):
    """The subject's process did not answer in time and was killed."""

    failure = "timeout"


class SubjectOutOfMemoryError(SubjectError):
    """The subject ran out of memory."""

    failure = "out_of_memory"


class SubjectProtocolError(SubjectError):
    """The subject's process answered nonsense."""

    failure = "protocol"


ERRORS: dict[Failure, type[HubTestsError]] = {
    "unsupported": UnsupportedError,
    "not_offered": NotOfferedError,
    "error": SubjectError,
    "crash": SubjectCrashError,
    "timeout": SubjectTimeoutError,
    "out_of_memory": SubjectOutOfMemoryError,
    "protocol": SubjectProtocolError,
    "request": RequestError,
    "infrastructure": InfrastructureError,
}


def failure_of(error: BaseException) -> Failure:
    """The class of an exception. Out of memory goes by the name of torch's exception, to do without torch here."""
    if isinstance(error, HubTestsError):
        return next((failure for failure, kind in ERRORS.items() if type(error) is kind), "error")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "infrastructure"
    return "unsupported" if isinstance(error, NotImplementedError) else "error"


def line_of(error: BaseException, *, within: str = "") -> str:
    """An exception as one line: ours as it is; another with its type and the innermost place in package `within`."""
    if isinstance(error, HubTestsError):
        return one_line(str(error))
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if within and within in Path(frame.filename).parts
    ]
    message = str(error) or (frames[-1].line if frames else "") or "no message"
    place = f" ({_place(frames[-1], within)})" if frames else ""
    return one_line(f"{type(error).__name__}: {message}", LONGEST - len(place)) + place


def one_line(text: str, longest: int = LONGEST) -> str:
    """Printable characters only, runs of white space as one space, shortened in the middle."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else f"{line[: longest * 2 // 3]} … {line[-longest // 4 :]}"


def _place(frame: traceback.FrameSummary, within: str) -> str:
    parts = Path(frame.filename).parts
    return f"{'/'.join(parts[parts.index(within) :])}:{frame.lineno}"
