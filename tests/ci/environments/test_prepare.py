"""From the options of a run to a subject that can be started, or to why its tests will fail."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.environments import prepare
from ci.environments.base import prune_bases
from ci.environments.prepare import prepared_subject
from ci.errors import RequestError
from ci.run_arguments import make_pytest_arguments
from ci.run_options import RunOptions
from ci.settings import Settings
from tests.ci.environments.conftest import DESCRIPTION
from tests.ci.environments.wheels import write_subject

if TYPE_CHECKING:
    from ci.environments.base import BaseEnvironment


@pytest.fixture
def settings(base: BaseEnvironment, tmp_path: Path) -> Settings:
    """Settings that find the stand-in's base environment."""
    return Settings(tmp_path / "cache", environments=base.path.parent)


@pytest.fixture
def described(tmp_path: Path) -> str:
    """The stand-in's description as a file."""
    path = tmp_path / "standin.toml"
    words = ", ".join(f'"{word}"' for word in DESCRIPTION.requirements)
    path.write_text(
        f'name = "standin"\npython = "{DESCRIPTION.python}"\nrequirements = [{words}]\n'
        f'install = "editable"\nimport-test = "{DESCRIPTION.import_test}"\n'
    )
    return str(path)


OPTIONS = RunOptions(subject="fast_llm", isolation="auto")


def test_environment_and_source_become_interpreter_and_path(
    base: BaseEnvironment, settings: Settings, described: str, tmp_path: Path
) -> None:
    checkout = write_subject(tmp_path / "checkout")
    options = replace(OPTIONS, environment=described, subject_source=str(checkout))
    with prepared_subject(options, settings, os.environ, tmp_path / "report", print) as prepared:
        assert prepared.subject_python == base.python
        assert prune_bases(base.path.parent, older_than=-1, keep=frozenset(), dry_run=True) == ()
        assert (prepared.subject_path[0] / "standin").is_dir()
        assert prepared.subject_failure is None
    assert not prepared.subject_path[0].exists()
    assert "standin" in (tmp_path / "report" / "logs" / "build.log").read_text()


def test_over_a_prepared_interpreter_a_subject_is_installed_as_over_its_own_environment(
    base: BaseEnvironment, settings: Settings, tmp_path: Path
) -> None:
    """Fast-LLM's wheel would be empty: its description says that it is installed in place."""
    checkout = write_subject(tmp_path / "checkout")
    options = replace(OPTIONS, subject_python=base.python, subject_source=str(checkout))
    with prepared_subject(options, settings, os.environ, tmp_path / "report", print) as prepared:
        assert prune_bases(base.path.parent, older_than=-1, keep=frozenset(), dry_run=True) == ()
        assert "the subject's import failed: " in str(prepared.subject_failure)
        assert "fast_llm" in str(prepared.subject_failure)
    assert "editable" in (tmp_path / "report" / "logs" / "build.log").read_text()


def test_a_build_that_fails_is_left_to_the_tests(settings: Settings, described: str, tmp_path: Path) -> None:
    checkout = write_subject(tmp_path / "checkout")
    (checkout / "setup.py").write_text("raise RuntimeError('will not build')\n")
    options = replace(OPTIONS, environment=described, subject_source=str(checkout))
    with prepared_subject(options, settings, os.environ, tmp_path / "report", print) as prepared:
        assert "the subject's build failed: " in str(prepared.subject_failure)
        assert "will not build" in str(prepared.subject_failure)


def test_a_subject_of_this_package_is_imported_from_its_checkout(settings: Settings, tmp_path: Path) -> None:
    options = replace(OPTIONS, subject="reference", subject_python=Path(sys.executable), subject_source=str(tmp_path))
    with prepared_subject(options, settings, os.environ, tmp_path / "report", print) as prepared:
        assert prepared.subject_path == (tmp_path,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environment": "fast_llm", "subject_python": Path(sys.executable)}, "name one of them"),
        ({"subject_source": "."}, "--subject-source needs --environment or --subject-python"),
        ({"subject_source": "nowhere", "subject_python": Path(sys.executable)}, "not a directory"),
        ({"environment": "unknown"}, "expected fast_llm, "),
    ],
)
def test_options_that_do_not_fit_are_refused(
    changes: dict[str, object], said: str, settings: Settings, tmp_path: Path
) -> None:
    options = replace(OPTIONS, **changes)  # type: ignore[arg-type]
    with (
        pytest.raises(RequestError, match=said),
        prepared_subject(options, settings, os.environ, tmp_path / "report", print),
    ):
        pass


def test_the_variables_of_a_description_reach_the_suite(
    base: BaseEnvironment, settings: Settings, described: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "provide_base", lambda *_: base)
    with Path(described).open("a") as file:
        file.write('[environment]\nMAX_JOBS = "4"\n')
    options = replace(OPTIONS, environment=described)
    with prepared_subject(options, settings, os.environ, tmp_path / "report", print) as prepared:
        assert prepared.read_subject_variables() == {"MAX_JOBS": "4"}
        words = make_pytest_arguments(prepared)
    assert """--subject-variables={"MAX_JOBS": "4"}""" in words
    assert options.read_subject_variables() == {}


ADAPTER = """
adapter = "tools/hub_adapter.py:Sub"
name = "sub"
package = "standin"
formats = ["llama"]
"""


def describe_adapter(tmp_path: Path) -> str:
    (tmp_path / "hub-subject.toml").write_text(ADAPTER)
    return str(tmp_path / "hub-subject.toml")


def test_an_adapter_of_the_checkout_is_copied_alone_to_where_the_worker_looks(
    base: BaseEnvironment, settings: Settings, described: str, tmp_path: Path
) -> None:
    checkout = write_subject(tmp_path / "checkout")
    (checkout / "tools").mkdir()
    (checkout / "tools/hub_adapter.py").write_text("class Sub: ...\n")
    (checkout / "tools/beside.py").write_text("")
    subject = describe_adapter(tmp_path)
    options = replace(OPTIONS, subject=subject, environment=described, subject_source=str(checkout))
    with prepared_subject(options, settings, os.environ, tmp_path / "report", print) as prepared:
        assert prepared.subject_failure is None
        assert (prepared.subject_path[0] / "standin").is_dir()
        assert [path.name for path in prepared.subject_path[1].iterdir()] == ["hub_adapter.py"]


def test_a_commit_without_the_adapters_file_is_the_subjects_failure(
    base: BaseEnvironment, settings: Settings, described: str, tmp_path: Path
) -> None:
    checkout = write_subject(tmp_path / "checkout")
    options = replace(OPTIONS, subject=describe_adapter(tmp_path), environment=described, subject_source=str(checkout))
    with prepared_subject(options, settings, os.environ, tmp_path / "report", print) as prepared:
        assert prepared.subject_failure == "the subject's checkout has no file tools/hub_adapter.py with the adapter"


def test_an_adapter_of_the_checkout_needs_the_checkout(settings: Settings, described: str, tmp_path: Path) -> None:
    options = replace(OPTIONS, subject=describe_adapter(tmp_path), environment=described)
    with (
        pytest.raises(RequestError, match=r"tools/hub_adapter\.py of the subject's checkout: name the checkout"),
        prepared_subject(options, settings, os.environ, tmp_path / "report", print),
    ):
        pass
