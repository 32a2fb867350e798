"""One declaration serves `hub-tests run`, pytest, and the command line between them."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from ci import __main__ as cli
from ci.run_arguments import (
    OPTIONS,
    Option,
    add_pytest_options,
    make_pytest_arguments,
    make_pytest_reproduction_arguments,
    make_reproduction_arguments,
    read_pytest_options,
)
from ci.run_options import RunOptions

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
