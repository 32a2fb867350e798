from __future__ import annotations

import json
import runpy
from typing import TYPE_CHECKING, get_args

import pytest

from ci.errors import HubTestsError, UnsupportedError
from ci.subjects.failure import ERRORS, Failure, classify_error, format_error, to_one_line

if TYPE_CHECKING:
    from pathlib import Path


def test_every_class_has_its_error_and_comes_back_as_itself() -> None:
    assert tuple(ERRORS) == get_args(Failure)
    assert [classify_error(kind("x")) for kind in ERRORS.values()] == list(get_args(Failure))
    assert classify_error(HubTestsError("x")) == "error"


def test_ours_is_left_as_it_is_and_another_says_type_and_place() -> None:
    assert format_error(UnsupportedError("no gemma")) == "no gemma"
    with pytest.raises(ValueError, match="Expecting") as error:
        json.loads("{")
    line = format_error(error.value, within="json")
    assert line.startswith("JSONDecodeError: Expecting property name")
    assert "(json/" in line
    assert line.endswith(")")
    assert "(" not in format_error(error.value, within="nowhere").removeprefix("JSONDecodeError: ").replace("(char", "")


def test_an_exception_without_words_shows_its_line() -> None:
    with pytest.raises(AssertionError) as error:
        assert_empty([1])
    error.value.args = ()
    assert "assert not items" in format_error(error.value, within=__name__.split(".")[0])
    assert format_error(ValueError()) == "ValueError: no message"


def test_a_directory_of_the_packages_name_is_not_the_package(tmp_path: Path) -> None:
    file = tmp_path / "json" / "adapter.py"
    file.parent.mkdir()
    file.write_text("raise ValueError('ours')")
    with pytest.raises(ValueError, match="ours") as error:
        runpy.run_path(str(file), run_name="adapter")
    assert format_error(error.value, within="json") == "ValueError: ours"


def assert_empty(items: list[int]) -> None:
    assert not items


@pytest.mark.parametrize(
    ("text", "line"),
    [("a\n\t b ", "a b"), ("\x1b[31mred\x00", "[31mred"), ("\u202eevil\u2028line", "evil line"), ("", "")],
)
def test_one_line_is_printable(text: str, line: str) -> None:
    assert to_one_line(text) == line


def test_a_long_line_keeps_both_ends() -> None:
    line = to_one_line("begin " + "x" * 5000 + " end", 100)
    assert len(line) <= 100
    assert line.startswith("begin")
    assert line.endswith("end")
