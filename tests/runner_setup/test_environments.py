"""The environments that a host builds: from hub-tests' own descriptions, and from files of the default branch."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.environments.base import list_bases
from ci.environments.prepare import provide_base
from ci.errors import InfrastructureError, RequestError
from ci.settings import from_environ
from hub_runner.config import EnvironmentsSettings
from hub_runner.environments import refresh_environments
from tests.ci.environments.conftest import index_environ
from tests.e2e.act import git

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hub_runner.config import Config
    from hub_runner.layout import Layout

__all__ = ["index_environ"]

FILE = "ci/environment.toml"
TEXT = 'name = "theirs"\npython = ">=3.11"\nrequirements = ["prebuilt"]\n'


@pytest.fixture
def host(config: Config, tmp_path: Path) -> Config:
    """A host whose GitHub is a folder, with the caller's description on the default branch and another on a branch."""
    work = tmp_path / "github/org/repo"
    (work / "ci").mkdir(parents=True)
    git(work, "init", "--quiet", "--initial-branch=trunk")
    (work / FILE).write_text(TEXT)
    git(work, "add", ".")
    git(work, "commit", "--quiet", "--message=description")
    git(work, "branch", "feature")
    github = replace(config.github, url=f"file://{tmp_path}/github")
    return replace(config, github=github, environments=EnvironmentsSettings(build=(FILE,)))


@pytest.fixture
def environ(index_environ: Mapping[str, str], layout: Layout, tmp_path: Path) -> dict[str, str]:
    return {**index_environ, "HUB_TESTS_CACHE": str(tmp_path / "cache")}


def test_the_default_branchs_description_is_built_once(host: Config, layout: Layout, environ: dict[str, str]) -> None:
    told: list[str] = []
    (line,) = refresh_environments(host, layout, environ, told.append)
    assert line.endswith(": ready")
    (base,) = list_bases(layout.environments)
    assert (base.manifest.description.name, base.manifest.packages["prebuilt"]) == ("theirs", "1.0")
    assert [wheel.name for wheel in layout.wheels.glob("prebuilt*")] == ["prebuilt-1.0-py3-none-any.whl"]
    told.clear()
    assert refresh_environments(host, layout, environ, told.append) == (line,)
    assert told == []


def test_what_is_listed_no_longer_is_removed_after_its_days(
    host: Config, layout: Layout, environ: dict[str, str]
) -> None:
    refresh_environments(host, layout, environ, lambda _: None)
    kept = replace(host, environments=EnvironmentsSettings(build=(), keep_days=1))
    assert refresh_environments(kept, layout, environ, lambda _: None) == ()
    gone = replace(host, environments=EnvironmentsSettings(build=(), keep_days=0))
    (line,) = refresh_environments(gone, layout, environ, lambda _: None)
    assert line.endswith(": removed")
    assert list(layout.wheels.iterdir()) == []


def test_a_job_uses_it_and_builds_another_one_beside_it(
    host: Config, layout: Layout, environ: dict[str, str], tmp_path: Path
) -> None:
    """With what a slot's unit says: the host's are found first, and never written."""
    refresh_environments(host, layout, environ, lambda _: None)
    of_job = {**environ, "HUB_TESTS_SHARED_ENVIRONMENTS": str(layout.environments)}
    settings = from_environ({**of_job, "HUB_TESTS_ENVIRONMENTS": str(tmp_path / "own")})
    (shared,) = list_bases(layout.environments)
    found = provide_base(shared.manifest.description, settings, of_job, pytest.fail)
    assert found.path == shared.path
    other = replace(shared.manifest.description, name="other")
    built = provide_base(other, settings, of_job, lambda _: None, python=sys.executable)
    assert built.path.parent == tmp_path / "own"


def test_a_directory_that_cannot_be_written_is_said(host: Config, environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    from ci.environments.description import load_description

    settings = from_environ({**environ, "HUB_TESTS_ENVIRONMENTS": str(tmp_path / "file" / "environments")})
    with pytest.raises(InfrastructureError, match="cannot be built there"):
        provide_base(load_description("reference"), settings, environ, lambda _: None)


@pytest.mark.parametrize(("build", "error"), [(("ci/none.toml",), RequestError), (("fast_lllm",), RequestError)])
def test_a_description_that_is_none_is_said(
    host: Config, layout: Layout, environ: dict[str, str], build: tuple[str, ...], error: type[Exception]
) -> None:
    wrong = replace(host, environments=EnvironmentsSettings(build=build))
    with pytest.raises(error):
        refresh_environments(wrong, layout, environ, lambda _: None)


def test_a_container_image_is_refused_where_the_unit_may_make_no_sandbox(
    host: Config, layout: Layout, environ: dict[str, str], tmp_path: Path
) -> None:
    work = tmp_path / "github/org/repo"
    (work / FILE).write_text('name = "theirs-image"\npython = "/usr/bin/python3"\nimage = "oci:/nowhere:tag"\n')
    git(work, "commit", "--quiet", "--all", "--message=image")
    with pytest.raises(RequestError, match=r"theirs-image is a container image.*environments\.images = true"):
        refresh_environments(host, layout, environ, lambda _: None)
    allowed = replace(host, environments=EnvironmentsSettings(build=(FILE,), images=True))
    with pytest.raises(InfrastructureError, match=r"skopeo|bubblewrap"):
        refresh_environments(allowed, layout, environ, lambda _: None)


def test_a_repository_that_cannot_be_cloned_is_said(host: Config, layout: Layout, environ: dict[str, str]) -> None:
    away = replace(host, github=replace(host.github, repository="org/away"))
    with pytest.raises(InfrastructureError, match="org/away"):
        refresh_environments(away, layout, environ, lambda _: None)
