from __future__ import annotations

import json

import pytest

from ci.errors import HubTestsError, UnsupportedError
from ci.subjects.failure import ERRORS, FAILURES, failure_of, line_of, one_line


def test_every_class_has_its_error_and_comes_back_as_itself() -> None:
    assert tuple(ERRORS) == FAILURES
    assert [failure_of(kind("x")) for kind in ERRORS.values()] == list(FAILURES)
    assert failure_of(HubTestsError("x")) == "error"


def test_ours_is_left_as_it_is_and_another_says_type_and_place() -> None:
    assert line_of(UnsupportedError("no gemma")) == "no gemma"
    with pytest.raises(ValueError, match="Expecting") as error:
        json.loads("{")
    line = line_of(error.value, within="json")
    assert line.startswith("JSONDecodeError: Expecting property name")
    assert "(json/" in line
    assert line.endswith(")")
    assert "(" not in line_of(error.value, within="nowhere").removeprefix("JSONDecodeError: ").replace("(char", "")


def test_an_exception_without_words_shows_its_line() -> None:
    with pytest.raises(AssertionError) as error:
        assert_empty([1])
    error.value.args = ()
    assert "assert not items" in line_of(error.value, within="test_failure.py")
    assert line_of(ValueError()) == "ValueError: no message"


def assert_empty(items: list[int]) -> None:
    assert not items


@pytest.mark.parametrize(
    ("text", "line"),
    [("a\n\t b ", "a b"), ("\x1b[31mred\x00", "[31mred"), ("\u202eevil\u2028line", "evil line"), ("", "")],
)
def test_one_line_is_printable(text: str, line: str) -> None:
    assert one_line(text) == line


def test_a_long_line_keeps_both_ends() -> None:
    line = one_line("begin " + "x" * 5000 + " end", 100)
    assert len(line) <= 100
    assert line.startswith("begin")
    assert line.endswith("end")
