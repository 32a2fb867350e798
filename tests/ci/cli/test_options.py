"""What the verbs share: the environment, plans from a file or a variable, and the options of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from ci.__main__ import main
from ci.cli import options
from ci.errors import RequestError
from ci.github.job_outputs import pack_record
from ci.records import to_json
from ci.run_options import RunOptions
from tests.ci.report import samples


def call_with(environ: dict[str, str]) -> Any:
    return typer.Context(typer.main.get_command(APP), obj=environ)


APP = typer.Typer()
GIVEN: list[Any] = []


@APP.command()
@options.takes_run_options
def verb(name: str, run_options: RunOptions, last: Annotated[int, typer.Option()] = 3) -> None:
    """Keep what it was given."""
    GIVEN[:] = [name, run_options, last]


@APP.command()
def other() -> None:
    """Make the application have more than one verb."""


def test_a_verb_gets_the_options_of_a_run_beside_its_own() -> None:
    APP(["verb", "x", "--layers", "2", "--registry", "models.toml", "--last", "4"], standalone_mode=False)
    assert ["x", RunOptions(layers=2, registry=Path.cwd() / "models.toml"), 4] == GIVEN
    APP(["verb", "x"], standalone_mode=False)
    assert ["x", RunOptions(), 3] == GIVEN


def test_a_wrong_word_names_its_option() -> None:
    with pytest.raises(RequestError, match=r"--device gpu: expected cpu or cuda"):
        APP(["verb", "x", "--device", "gpu"], standalone_mode=False)


def test_the_store_of_the_command_line_wins(tmp_path: Path) -> None:
    call = call_with({"HUB_TESTS_CACHE": "/elsewhere", "HF_HUB_OFFLINE": "1"})
    assert options.settings(call).cache == Path("/elsewhere")
    assert options.settings(call, tmp_path).cache == tmp_path
    assert options.settings(call, tmp_path).offline


def test_a_plan_comes_from_a_file_or_from_the_environment(tmp_path: Path) -> None:
    plan = samples.plan_of("smollm2")
    (tmp_path / "plan.json").write_text(to_json(plan))
    assert options.plan(call_with({}), tmp_path / "plan.json") == plan
    assert options.plan(call_with({"HUB_TESTS_PLAN": pack_record(plan)})) == plan
    with pytest.raises(RequestError, match="HUB_TESTS_PLAN is empty"):
        options.plan(call_with({}))


def test_no_delivery_is_an_empty_one() -> None:
    delivery = options.delivery(call_with({}))
    assert (delivery.checkpoints, delivery.problems) == ({}, {})


BISECT = "bisect mixtral --over transformers --good 5.20.0 --bad 5.23.0 --environment hf-5-14 --subject-source /"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("matrix --baseline {empty}", "--html"),
        (BISECT, "--state"),
        ("env build reference --newest", "--newest"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_line_about_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, option: str
) -> None:
    monkeypatch.setattr("ci.environments.newest.resolve_newest", lambda description, _: description)
    (tmp_path / "file").touch()
    given = [word.format(empty=tmp_path / "file") for word in words.removesuffix(f" {option}").split()]
    assert main([*given, option, str(tmp_path / "file" / "place" / "of")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(rf"hub-tests: {option} \S+: cannot be written: [\w ]+; name another place\n", said.err)
