"""The lines that find a change: one for each thing that changed, and none that a hostile night could shape."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from ci.github.bisect_lines import FailingNights, SubjectAddress, find_failing_nights, format_line, format_lines
from ci.report.history import HistoryRecord

GOOD, BAD = "a" * 40, "b" * 40
SUBJECT = SubjectAddress("fast_llm", "https://github.com/ServiceNow/Fast-LLM")
PASSED = HistoryRecord(
    "2026-09-01", "mixtral", "passed", GOOD, (), revision="c" * 40, device="cuda", libraries={"torch": "2.12.0+cu130"}
)
FAILED = replace(PASSED, date="2026-09-02", verdict="failed", sha=BAD)


def test_a_commit_that_changed_is_one_line() -> None:
    line = (
        f"hub-tests bisect mixtral --good {GOOD} --bad {BAD} --subject fast_llm --environment fast_llm "
        "--subject-source https://github.com/ServiceNow/Fast-LLM --device cuda"
    )
    assert format_lines(FailingNights(PASSED, FAILED), SUBJECT) == [line]


def test_libraries_and_revisions_are_searched_apart_at_one_commit() -> None:
    failed = replace(FAILED, revision="d" * 40, libraries={"torch": "2.13.0+cu130"})
    commits, hub, torch = format_lines(FailingNights(PASSED, failed), SUBJECT)
    assert "--over" not in commits
    assert f"--over hub --good {'c' * 40} --bad {'d' * 40}" in hub
    assert "--over torch --good 2.12.0 --bad 2.13.0" in torch
    assert f"Fast-LLM@{BAD} " in hub
    assert f"Fast-LLM@{BAD} " in torch


@pytest.mark.parametrize(
    "changes",
    [
        {"sha": "x; rm -rf /"},
        {"sha": GOOD, "revision": "$(id)"},
        {"sha": GOOD, "libraries": {"torch": "2.13;id"}},
        {"sha": GOOD, "libraries": {"torch && id": "2.13"}},
        {"entry": "mixtral;id"},
    ],
)
def test_a_hostile_night_shapes_no_line(changes: Any) -> None:
    assert format_lines(FailingNights(PASSED, replace(FAILED, **changes)), SUBJECT) == []


def test_a_strange_address_or_device_is_left_out() -> None:
    for url in ("https://github.com/o/r;id", "file:///etc", "https://github.com/o/$(id)"):
        assert format_line("mixtral", "commits", GOOD, BAD, SubjectAddress("fast_llm", url)) == ""
    line = format_line("mixtral", "commits", GOOD, BAD, SUBJECT, device="`id`")
    assert shlex.split(line)[-1] == SUBJECT.url


def night(verdict: str, date: str) -> HistoryRecord:
    return replace(PASSED, verdict=verdict, date=date)


def test_the_nights_around_the_break_are_found() -> None:
    records = [night("failed", "1"), night("passed", "2"), night("neutral", "3"), night("failed", "4")]
    records += [night("failed", "5"), night("neutral", "6")]
    found = find_failing_nights(records)
    assert found
    assert (found.passed.date, found.failed.date) == ("2", "4")
    assert find_failing_nights(records[:3]) is None, "the newest clear night passed"
    assert find_failing_nights(records[:1]) is None, "none ever passed"
