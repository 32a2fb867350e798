"""Turns Fast-LLM's exceptions into errors of one line: the action, its own message, and the place in Fast-LLM."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci.errors import HubTestsError, RequestError, SubjectError
from ci.subjects.failure import ERRORS, classify_error, format_error, to_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "fast_llm"


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Turn any exception of the context into one of ours. Raises SubjectError, RequestError.

    It is a wrong request only where Fast-LLM is not installed at all; any other failing import is Fast-LLM's failure.
    """
    logged = _LoggedErrors()
    logger = logging.getLogger(PACKAGE)
    logger.addHandler(logged)
    try:
        yield
    except HubTestsError:
        raise
    except ModuleNotFoundError as problem:
        if problem.name != PACKAGE:
            raise SubjectError(f"Fast-LLM, {what}: {format_error(problem, within=PACKAGE)}") from problem
        advice = "choose an interpreter that has it with --subject-python"
        raise RequestError(f"Fast-LLM cannot be imported here: {format_error(problem)}; {advice}") from problem
    except Exception as problem:
        kind = ERRORS[classify_error(problem)]
        raise kind(f"Fast-LLM, {what}: {_format_problem(problem, logged.lines)}") from problem
    finally:
        logger.removeHandler(logged)


class _LoggedErrors(logging.Handler):
    """Keeps the logged errors of one line; longer ones are dumps of the whole configuration."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's text."""
        text = record.getMessage()
        if "\n" not in text.strip():
            self.lines.append(text)


def _format_problem(problem: Exception, logged: list[str]) -> str:
    """Return the error as one line.

    A message that only points to the logs is replaced by the logged reason.
    """
    line, reason = format_error(problem, within=PACKAGE), _find_reason(problem, logged)
    return line.replace(to_one_line(str(problem)), reason, 1) if reason else line


def _find_reason(problem: Exception, logged: list[str]) -> str:
    """Return the reason behind a "See logs" message.

    It is a validation error's innermost field, or a logged line.
    """
    if "See logs" not in str(problem):
        return ""
    if problem.__context__ is not None:
        nested = str(problem.__context__).split("\n\n")[0].splitlines()
        return to_one_line(nested[-1], 300) if nested else ""
    return to_one_line(logged[0], 300) if logged else ""
