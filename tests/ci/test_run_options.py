"""One declaration serves `hub-tests run`, pytest, and the command line between them."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from ci import __main__ as cli
from ci.errors import RequestError
from ci.run_options import (
    OPTIONS,
    Option,
    RunOptions,
    add_pytest_options,
    make_pytest_arguments,
    make_pytest_reproduction_arguments,
    make_reproduction_arguments,
    parse_layers,
    read_pytest_options,
)

EVERYTHING = RunOptions(
    subject="reference",
    subject_python=Path("/env/bin/python"),
    subject_path=(Path("/a"), Path("/b")),
    device="cpu",
    layers=3,
    registry=Path("/models.toml"),
    checkpoints=Path("/checkpoints.json"),
    timeout=7.5,
    deep=True,
    subject_logs=Path("/logs"),
)


def parse_as_pytest_does(words: list[str]) -> RunOptions:
    parser = argparse.ArgumentParser()
    add_pytest_options(parser.add_argument)
    values = vars(parser.parse_args(words))
    return read_pytest_options(lambda name: values[name.removeprefix("--").replace("-", "_")])


def run_command_options() -> dict[str, Any]:
    command: Any = typer.main.get_command(cli.app)
    return {name: parameter for parameter in command.commands["run"].params for name in parameter.opts}


def test_what_run_was_told_reaches_the_suite_unchanged() -> None:
    assert parse_as_pytest_does(make_pytest_arguments(EVERYTHING)) == EVERYTHING
    assert parse_as_pytest_does(make_pytest_arguments(RunOptions())) == RunOptions()


def test_every_option_of_the_record_is_one_of_hub_tests_run() -> None:
    declared = {option.cli for option in OPTIONS if option.cli}
    others = {"names", "--report", "--json"}
    assert set(run_command_options()) - {"-v", "--help"} == declared | others


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


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.cli], ids=lambda option: option.name)
def test_help_and_default_of_the_command_line_are_the_declared_ones(option: Option) -> None:
    parameter = run_command_options()[str(option.cli)]
    assert parameter.help == option.declared.help
    assert (parameter.default or None) == (option.default or None)


def test_what_changes_a_test_is_in_the_line_that_runs_it_again() -> None:
    again = parse_as_pytest_does(make_pytest_reproduction_arguments(EVERYTHING))
    kept = {field.name for field in fields(RunOptions) if getattr(again, field.name) == getattr(EVERYTHING, field.name)}
    assert kept >= {"subject", "subject_python", "subject_path", "device", "layers", "registry", "deep"}
    assert not [word for word in make_reproduction_arguments(EVERYTHING, leave_out=["deep"]) if word == "--deep"]
    assert all(option.cli for option in OPTIONS if option.declared.reproduces)
    words = make_reproduction_arguments(RunOptions(environment="fast_llm", subject_source="https://host/name@abc"))
    assert words == ["--environment=fast_llm", "--subject-source=https://host/name@abc"]


def test_layers() -> None:
    assert [parse_layers(text) for text in ("2", "auto")] == [2, "auto"]
    for text in ("0", "-1", "two", ""):
        with pytest.raises(RequestError, match="--layers"):
            parse_layers(text)


def test_the_real_subject_goes_first_where_there_is_one() -> None:
    assert RunOptions(subject_python=Path("/some/python")).subject_or_default() == "fast_llm"
    assert RunOptions().subject_or_default() in ("fast_llm", "reference")
    assert RunOptions(subject="reference", subject_python=Path("/some/python")).subject_or_default() == "reference"
