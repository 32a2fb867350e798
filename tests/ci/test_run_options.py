"""Which options a run has, and what their words mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.errors import RequestError
from ci.run_arguments import OPTIONS
from ci.run_options import RunOptions, parse_layers


def test_the_names_are_those_that_people_use() -> None:
    assert [option.cli for option in OPTIONS if option.cli] == [
        "--subject",
        "--subject-python",
        "--subject-path",
        "--reference-python",
        "--reference-path",
        "--environment",
        "--only-environment",
        "--subject-source",
        "--device",
        "--layers",
        "--slice",
        "--isolation",
        "--compile-cache",
        "--fill-compile-cache",
        "--registry",
        "--checkpoints",
        "--timeout",
        "--time-limit",
        "--workers",
        "--deep",
        "--accept-known-refusals",
        "--verbose",
        "--consumer",
        "--consumer-python",
    ]
    assert {option.pytest for option in OPTIONS if option.pytest and option.pytest != option.cli} == {
        "--subject-timeout",
        "--subject-logs",
        "--subject-commit",
        "--subject-failure",
        "--model-options",
        "--environment-failure",
        "--subject-variables",
    }


def test_layers() -> None:
    assert [parse_layers(text) for text in ("2", "auto")] == [2, "auto"]
    for text in ("0", "-1", "two", ""):
        with pytest.raises(RequestError, match="--layers"):
            parse_layers(text)


def test_the_real_subject_goes_first_where_there_is_one() -> None:
    assert RunOptions(subject_python=Path("/some/python")).subject_or_default() == "fast_llm"
    assert RunOptions().subject_or_default() in ("fast_llm", "reference")
    assert RunOptions(subject="reference", subject_python=Path("/some/python")).subject_or_default() == "reference"
