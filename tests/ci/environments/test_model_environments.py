"""Each model's subject in the environment that its entry names: one command for a group with several."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.environments import prepare
from ci.environments.model_environments import check_environments, choose_environment, group_models, prepared_subjects
from ci.errors import InfrastructureError, RequestError
from ci.models import HubModel, SubjectEnvironment, load_models, parse_model
from ci.run_options import RunOptions
from ci.settings import Settings
from tests.ci.environments.conftest import DESCRIPTION
from tests.ci.environments.wheels import write_subject

if TYPE_CHECKING:
    from ci.environments.base import BaseEnvironment
    from ci.environments.description import EnvironmentDescription

PLAIN = HubModel("plain", "o/plain", "llama")
OWN = HubModel("own", "o/own", "gemma4", environments=(SubjectEnvironment("fast_llm", "fast_llm-gemma4"),))
RUN = RunOptions(subject="fast_llm", environment="fast_llm", isolation="auto")


@pytest.mark.parametrize(
    ("model", "options", "environment"),
    [
        (PLAIN, RUN, "fast_llm"),
        (OWN, RUN, "fast_llm-gemma4"),
        (OWN, replace(RUN, environment=None), "fast_llm-gemma4"),
        (OWN, replace(RUN, subject=None), "fast_llm-gemma4"),
        (OWN, replace(RUN, environment="mine.toml"), "fast_llm-gemma4"),
        (OWN, replace(RUN, environment="mine.toml", only_environment=True), "mine.toml"),
        (OWN, replace(RUN, environment=None, subject_python=Path("/x/python")), None),
        (OWN, replace(RUN, subject="reference", environment="reference"), "reference"),
        (PLAIN, replace(RUN, environment=None), None),
    ],
)
def test_the_entrys_word_goes_before_the_runs(model: HubModel, options: RunOptions, environment: str | None) -> None:
    assert choose_environment(model, options) == environment


def test_models_are_grouped_in_their_order() -> None:
    again = replace(PLAIN, name="again")
    assert group_models([PLAIN, OWN, again], RUN) == {"fast_llm": (PLAIN, again), "fast_llm-gemma4": (OWN,)}


def test_the_registry_declares_them_for_each_subject() -> None:
    gemma = load_models()["gemma4-26b-a4b"]
    assert gemma.find_environment("fast_llm") == "fast_llm-gemma4"
    assert gemma.find_environment("reference") is None
    table: dict[str, Any] = {"model_id": "o/n", "checkpoint_format": "llama"}
    one = {"subject": "fast_llm", "environment": "fast_llm"}
    with pytest.raises(RequestError, match="environments: expected one table for each subject"):
        parse_model("a", {**table, "environments": [one, one]})
    with pytest.raises(RequestError, match=r"\[a\] environments: unknown key 'enviroment'. Did you mean 'environment'"):
        parse_model("a", {**table, "environments": [{"subject": "x", "enviroment": "y"}]})


def test_a_wrong_environment_names_the_entry() -> None:
    wrong = replace(OWN, environments=(SubjectEnvironment("fast_llm", "fast_lm"),))
    with pytest.raises(RequestError, match=r"\[own\] environments: environment 'fast_lm': .*Did you mean 'fast_llm'"):
        check_environments([PLAIN, wrong], RUN)
    with pytest.raises(RequestError, match=r"^environment 'fastllm'"):
        check_environments([PLAIN, OWN], replace(RUN, environment="fastllm"))
    check_environments([PLAIN, OWN], RUN)


def describe(path: Path, name: str, variables: str = "") -> str:
    words = ", ".join(f'"{word}"' for word in DESCRIPTION.requirements)
    path.write_text(
        f'name = "{name}"\npython = "{DESCRIPTION.python}"\nrequirements = [{words}]\n'
        f'install = "editable"\nimport-test = "{DESCRIPTION.import_test}"\n{variables}'
    )
    return str(path)


@pytest.fixture
def provided(base: BaseEnvironment, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the environments that were asked for; one that is called `absent` cannot be had."""
    asked: list[str] = []

    def provide(description: EnvironmentDescription, *_: object, **__: object) -> BaseEnvironment:
        asked.append(description.name)
        if description.name == "absent":
            raise InfrastructureError("environment 'absent' is not there; hub-tests env build absent")
        return base

    monkeypatch.setattr(prepare, "provide_base", provide)
    return asked


def test_one_command_builds_the_commit_over_each_environment(provided: list[str], tmp_path: Path) -> None:
    usual, other = (describe(tmp_path / f"{name}.toml", name) for name in ("usual", "other"))
    absent = describe(tmp_path / "absent.toml", "absent")
    with Path(other).open("a") as file:
        file.write('[environment]\nMAX_JOBS = "4"\n')
    models = [
        replace(PLAIN, name=name, environments=(SubjectEnvironment("fast_llm", named),) if named else ())
        for name, named in (("gone", absent), ("plain", None), ("own", other))
    ]
    options = replace(RUN, environment=usual, subject_source=str(write_subject(tmp_path / "checkout")))
    said: list[str] = []
    settings = Settings(tmp_path / "cache")
    with prepared_subjects(models, options, settings, os.environ, tmp_path / "report", said.append) as prepared:
        plain, own, gone = (prepared.models[name] for name in ("plain", "own", "gone"))
        assert (plain.subject_variables, own.subject_variables) == (None, '{"MAX_JOBS": "4"}')
        assert plain.subject_path != own.subject_path
        assert all((one.subject_path[0] / "standin").is_dir() for one in (plain, own))
        assert (gone.subject_python, gone.subject_failure) == (None, None)
        assert "hub-tests env build absent" in str(gone.environment_failure)
        assert prepared.options.subject_path == plain.subject_path
    assert provided == ["absent", "usual", "other"]
    assert [line for line in said if "absent" in line] == [
        "gone: environment 'absent' is not there; hub-tests env build absent"
    ]
    assert {path.name for path in (tmp_path / "report" / "logs").iterdir()} == {"build-usual.log", "build-other.log"}


def test_one_environment_alone_is_as_before(provided: list[str], tmp_path: Path) -> None:
    absent = describe(tmp_path / "absent.toml", "absent")
    settings, report = Settings(tmp_path / "cache"), tmp_path / "report"
    with (
        pytest.raises(InfrastructureError, match="env build absent"),
        prepared_subjects([PLAIN], replace(RUN, environment=absent), settings, os.environ, report, print),
    ):
        pass
    python = replace(RUN, environment=None, subject_python=Path(sys.executable))
    with prepared_subjects([PLAIN, OWN], python, settings, os.environ, report, print) as prepared:
        assert (prepared.options, prepared.models) == (python, {})
    assert provided == ["absent"]
