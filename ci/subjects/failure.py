"""Describes a subject's failure: a class for machines and one line for people. Standard library only."""

from __future__ import annotations

import errno
import linecache
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
MAX_LINE = 600


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
    """The subject's process sent an invalid response."""

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


def classify_error(error: BaseException) -> Failure:
    """Return the class of an exception.

    Out of memory is recognised by the name of torch's exception, so that torch is not imported here.
    """
    if isinstance(error, HubTestsError):
        return next((failure for failure, kind in ERRORS.items() if type(error) is kind), "error")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "infrastructure"
    return "unsupported" if isinstance(error, NotImplementedError) else "error"


def format_error(error: BaseException, *, within: str = "") -> str:
    """Return an exception as one line.

    An error of ours is its message. Any other also has its type and the innermost place in the package `within`.
    """
    if isinstance(error, HubTestsError):
        return to_one_line(str(error))
    place = _find_place(error, within)
    message = str(error) or (place.source if place else "") or "no message"
    suffix = f" ({place.file}:{place.line})" if place else ""
    return to_one_line(f"{type(error).__name__}: {message}", MAX_LINE - len(suffix)) + suffix


def to_one_line(text: str, longest: int = MAX_LINE) -> str:
    """Return printable text on one line, with single spaces, shortened in the middle to `longest` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else f"{line[: longest * 2 // 3]} … {line[-longest // 4 :]}"


@dataclass(frozen=True)
class _Place:
    """A line of code: the file from its package on, the line's number and its text."""

    file: str
    line: int
    source: str


def _find_place(error: BaseException, package: str) -> _Place | None:
    """Return the innermost place of the traceback in a top-level package.

    Modules are compared by name: a path may contain the package's name for another reason, as that of our adapter does.
    """
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        names = str(frame.f_globals.get("__name__", "")).split(".")
        if names[0] == package and not frame.f_code.co_filename.startswith("<"):  # code without a file names no place
            path = Path(frame.f_code.co_filename)
            depth = len(names) + (path.name == "__init__.py")
            return _Place("/".join(path.parts[-depth:]), line, linecache.getline(str(path), line).strip())
    return None
