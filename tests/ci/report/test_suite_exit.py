"""How the suite's process ended, held against the tests in its result file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.report.junit import JunitCase, JunitFile
from ci.report.result_files import INTERRUPTED
from ci.report.results import Attempt
from ci.report.suite_exit import describe_exit, find_exit_note, find_exit_problem, is_interrupted


def attempt(outcome: str = "passed", **changes: Any) -> Attempt:
    case = JunitCase("test_conversion[mixtral]", outcome)  # type: ignore[arg-type]
    return replace(Attempt(1, JunitFile((case,))), records_exit_code=True, **changes)


@pytest.mark.parametrize(
    ("changes", "failure_class"),
    [
        ({"exit_code": 0}, None),
        ({"exit_code": 1}, "unproven"),
        ({"exit_code": None}, "unproven"),
        ({"exit_code": -11}, "unproven"),
        ({"exit_code": 2}, "interrupted"),
        ({"exit_code": 130, "ended": INTERRUPTED}, "interrupted"),
        ({"exit_code": 2, "ended": "time limit of 5 s"}, "timeout"),
    ],
)
def test_an_exit_code_that_contradicts_a_pass(changes: dict[str, Any], failure_class: str | None) -> None:
    problem = find_exit_problem(attempt(**changes))
    assert (problem.failure_class if problem else None) == failure_class


def test_a_failed_test_explains_every_exit_code_but_0() -> None:
    assert find_exit_problem(attempt("failed", exit_code=1)) is None
    assert find_exit_note(attempt("failed", exit_code=1)) == ""
    assert "the result file counts" in find_exit_note(attempt("failed", exit_code=0))


def test_a_time_limit_is_no_interruption() -> None:
    assert is_interrupted(attempt(exit_code=130))
    assert not is_interrupted(attempt(exit_code=130, ended="time limit of 5 s"))


def test_an_exit_code_is_said_in_words() -> None:
    assert describe_exit(3) == "the suite ended with exit code 3 (internal error)"
    assert describe_exit(-9) == "the suite was killed by SIGKILL"
