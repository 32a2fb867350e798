"""The newest versions that a description allows: resolved by uv, from a local index."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.environments.description import load_description, shipped_descriptions
from ci.environments.installer import PipInstaller, find_installer
from ci.environments.newest import format_description, resolve_newest
from ci.errors import InfrastructureError, RequestError
from tests.ci.environments.conftest import DESCRIPTION
from tests.ci.environments.wheels import write_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from ci.environments.installer import Installer

PINNED = replace(DESCRIPTION, requirements=("prebuilt>=1,<3",), constraints=("prebuilt<2",))


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    """uv with an index of three versions of one package."""
    for version in ("1.0", "2.5", "3.0"):
        write_wheel(tmp_path, "prebuilt", version, {"prebuilt.py": b"VALUE = 1\n"})
    environ = {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(tmp_path), "UV_OFFLINE": "1", "UV_CACHE_DIR": f"{tmp_path}/uv"}
    return find_installer({**environ, "PATH": "/usr/bin:/bin"})


def test_the_newest_of_the_range_is_taken_and_no_constraint_holds_it_back(installer: Installer) -> None:
    newest = resolve_newest(PINNED, installer)
    assert (newest.name, newest.requirements, newest.constraints) == ("standin-newest", ("prebuilt==2.5",), ())
    assert replace(newest, name="", requirements=(), constraints=()) == replace(
        PINNED, name="", requirements=(), constraints=()
    )


def test_other_versions_are_another_environment(installer: Installer, tmp_path: Path) -> None:
    before = resolve_newest(PINNED, installer)
    write_wheel(tmp_path, "prebuilt", "2.6", {"prebuilt.py": b"VALUE = 2\n"})
    after = resolve_newest(PINNED, installer)
    assert after.requirements == ("prebuilt==2.6",)
    assert after.digest != before.digest


def test_ranges_without_a_solution_are_said(installer: Installer) -> None:
    with pytest.raises(InfrastructureError, match="prebuilt"):
        resolve_newest(replace(PINNED, requirements=("prebuilt>=4",)), installer)


def test_it_needs_uv() -> None:
    with pytest.raises(RequestError, match="resolved by uv"):
        resolve_newest(PINNED, PipInstaller({}))


@pytest.mark.parametrize("name", shipped_descriptions())
def test_a_description_that_is_written_reads_back_the_same(name: str, tmp_path: Path) -> None:
    description = replace(load_description(name), environment={"A_B": 'x "quoted" \\', "C": "ü"})
    (tmp_path / "written.toml").write_text(format_description(description), encoding="utf-8")
    assert load_description(str(tmp_path / "written.toml")) == description
