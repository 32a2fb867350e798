"""The options that differ between the models of one run, written by `run` and read by the suite."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.model_options import ModelOptions, apply_model_options, take_model_options, write_model_options
from ci.run_options import RunOptions

OPTIONS = RunOptions(subject="fast_llm", subject_python=Path("/a/python"), subject_path=(Path("/a"),), deep=True)


def test_each_model_gets_its_own_and_all_the_rest(tmp_path: Path) -> None:
    other = ModelOptions(Path("/b/python"), (Path("/b"), Path("/c")), '{"X": "1"}', "will not build")
    path = tmp_path / "options.json"
    write_model_options({"a": take_model_options(OPTIONS), "b": other}, path)
    run = RunOptions(subject="fast_llm", deep=True, subject_python=Path("/any"), model_options=path)
    one, two = apply_model_options(run, "a"), apply_model_options(run, "b")
    assert (one.subject_python, one.subject_path, one.deep) == (Path("/a/python"), (Path("/a"),), True)
    assert take_model_options(two) == other
    assert two.read_subject_variables() == {"X": "1"}


def test_without_a_file_each_model_has_the_runs() -> None:
    assert apply_model_options(OPTIONS, "a") is OPTIONS
    assert {field.name for field in fields(ModelOptions)} <= {field.name for field in fields(RunOptions)}


def test_a_file_that_says_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "options.json"
    with pytest.raises(InfrastructureError, match="cannot be read"):
        apply_model_options(RunOptions(model_options=path), "a")
    write_model_options({}, path)
    with pytest.raises(RequestError, match="says nothing about 'a'"):
        apply_model_options(RunOptions(model_options=path), "a")
    path.write_text('{"models": {"a": {"subject": "x"}}}')
    with pytest.raises(RequestError, match="Unexpected keyword"):
        apply_model_options(RunOptions(model_options=path), "a")
