"""How the suite's process ended, compared with the tests in its result file."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from ci.report.case_results import make_entry_failure
from ci.report.result_files import INTERRUPTED
from ci.report.results import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.plan import PlanEntry
    from ci.report.results import Attempt, CaseResult

INTERRUPTED_CODES = frozenset({2, 130, -signal.SIGINT, -signal.SIGTERM})
"""pytest's own code, a shell's for SIGINT, and the signals that a user or a cancelled job sends.

https://docs.pytest.org/en/stable/reference/exit-codes.html
"""
_MEANINGS = {
    1: "tests failed",
    2: "interrupted",
    3: "internal error",
    4: "wrong usage",
    5: "no tests",
    130: "interrupted",
}


def is_interrupted(attempt: Attempt) -> bool:
    """Return whether a user or a cancelled job ended the suite.

    Its time limit, or broken test files, are neither.
    """
    if attempt.ended:
        return attempt.ended == INTERRUPTED
    collected = not any(case.message == "collection failure" for case in attempt.junit.cases)
    return attempt.exit_code in INTERRUPTED_CODES and collected


def find_exit_problem(attempt: Attempt) -> Problem | None:
    """Return how the exit code contradicts a file in which no test failed.

    It must be asked of a whole file, before that is split by model: one failed test explains the exit code of all.
    """
    if is_interrupted(attempt):
        return Problem("interrupted", "the run was interrupted after its tests had passed")
    if any(case.outcome in ("failed", "error") for case in attempt.junit.cases):
        return None
    if attempt.exit_code is None:
        missing = "no test failed, but the suite's exit code is missing: it did not end in order"
        return Problem("unproven", missing) if attempt.records_exit_code else None
    if attempt.exit_code and attempt.ended:
        return Problem("timeout", f"the suite ran out of time after its tests had passed: {attempt.ended}")
    return Problem("unproven", f"no test failed, but {describe_exit(attempt.exit_code)}") if attempt.exit_code else None


def find_exit_failure(entry: PlanEntry, attempt: Attempt | None, cases: Sequence[CaseResult]) -> CaseResult | None:
    """Return a failure for an exit code that contradicts an entry without failures."""
    if attempt is None or any(case.outcome in ("failed", "missing") for case in cases):
        return None
    problem = attempt.problem if attempt.is_part else find_exit_problem(attempt)
    return make_entry_failure(entry, "suite", problem) if problem else None


def find_exit_note(attempt: Attempt) -> str:
    """Return how the exit code contradicts a file with failures, which stay red."""
    failed = any(case.outcome in ("failed", "error") for case in attempt.junit.cases)
    if failed and attempt.exit_code == 0:
        return "the suite's exit code is 0, but its result file contains failures: the result file counts"
    return ""


def describe_exit(code: int) -> str:
    """Describe an exit code: `the suite ended with exit code 3 (internal error)`."""
    if code < 0:
        return f"the suite was killed by {_name_signal(-code)}"
    return f"the suite ended with exit code {code}{f' ({_MEANINGS[code]})' if code in _MEANINGS else ''}"


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
