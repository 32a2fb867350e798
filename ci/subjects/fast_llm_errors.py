"""What Fast-LLM raises, as one line: what it was doing, its own message, and where in Fast-LLM it stopped."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci.errors import HubTestsError, RequestError, SubjectError
from ci.subjects.failure import ERRORS, failure_of, line_of, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "fast_llm"


@contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """Errors of ours pass; whatever else is raised comes out as one of ours. Raises SubjectError, RequestError.

    Only that Fast-LLM is not there at all is a wrong request: what breaks while it is imported is Fast-LLM's.
    """
    logged = _Logged()
    logger = logging.getLogger(PACKAGE)
    logger.addHandler(logged)
    try:
        yield
    except HubTestsError:
        raise
    except ModuleNotFoundError as problem:
        if problem.name != PACKAGE:
            raise SubjectError(f"Fast-LLM, {what}: {line_of(problem, within=PACKAGE)}") from problem
        advice = "choose an interpreter that has it with --subject-python"
        raise RequestError(f"Fast-LLM cannot be imported here: {line_of(problem)}; {advice}") from problem
    except Exception as problem:
        kind = ERRORS[failure_of(problem)]
        raise kind(f"Fast-LLM, {what}: {_line(problem, logged.lines)}") from problem
    finally:
        logger.removeHandler(logged)


class _Logged(logging.Handler):
    """Keeps the errors that were logged in one line (a dump of the whole configuration is no reason)."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's text."""
        text = record.getMessage()
        if "\n" not in text.strip():
            self.lines.append(text)


def _line(problem: Exception, logged: list[str]) -> str:
    """The error's own line; where it only points to the logs, what it points to stands in its place."""
    line, reason = line_of(problem, within=PACKAGE), _reason(problem, logged)
    return line.replace(one_line(str(problem)), reason, 1) if reason else line


def _reason(problem: Exception, logged: list[str]) -> str:
    """What a message that only points to the logs hides: a validation error's innermost field, or a logged line."""
    if "See logs" not in str(problem):
        return ""
    if problem.__context__ is not None:
        nested = str(problem.__context__).split("\n\n")[0].splitlines()
        return one_line(nested[-1], 300) if nested else ""
    return one_line(logged[0], 300) if logged else ""
