"""A folder of wheels that a job may only read: another environment is installed from it, without a network."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.environments.base import build_base
from ci.environments.installer import UvInstaller, find_installer, find_uv
from ci.environments.wheel_folder import keep_wheels, prune_wheels
from ci.errors import InfrastructureError
from tests.ci.environments.conftest import DESCRIPTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.environments.base import BaseEnvironment

NAMES = ("prebuilt-1.0-py3-none-any.whl", "pybind11-3.0.1-py3-none-any.whl")


def offline(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What a slot's unit gives a job, where nothing else can be reached."""
    return {**environ, "UV_FIND_LINKS": str(folder), "PIP_FIND_LINKS": str(folder)}


def test_another_environment_is_built_from_the_kept_wheels(
    tmp_path: Path, base: BaseEnvironment, index_environ: Mapping[str, str]
) -> None:
    folder = tmp_path / "wheels"
    told: list[str] = []
    names = keep_wheels(base, folder, index_environ, told.append)
    assert set(NAMES) <= set(names)
    if find_uv(index_environ):
        assert any(name.startswith("pip-") for name in names)  # uv puts it into each environment
    assert keep_wheels(base, folder, {"PATH": "/nowhere"}, told.append) == names  # they are there: nothing runs
    assert len(told) == 1
    for path in (folder, *folder.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    other = replace(DESCRIPTION, name="other", requirements=("prebuilt",))
    environ = offline(folder, index_environ)
    installer = find_installer(environ)
    built = build_base(tmp_path / "own", other, installer, python=sys.executable)
    assert built.manifest.packages["prebuilt"] == "1.0"
    if isinstance(installer, UvInstaller):
        assert "--hash=sha256:" in (built.path / "requirements.lock").read_text()
    folder.chmod(0o755)


def test_a_lost_wheel_is_fetched_again(tmp_path: Path, base: BaseEnvironment, index_environ: Mapping[str, str]) -> None:
    keep_wheels(base, tmp_path, index_environ, lambda _: None)
    (tmp_path / NAMES[0]).unlink()
    keep_wheels(base, tmp_path, index_environ, lambda _: None)
    assert (tmp_path / NAMES[0]).is_file()


def test_wheels_that_cannot_be_had_are_an_infrastructure_problem(
    tmp_path: Path, base: BaseEnvironment, index_environ: Mapping[str, str]
) -> None:
    with pytest.raises(InfrastructureError, match="cannot be kept"):
        keep_wheels(base, tmp_path, {**index_environ, "PIP_FIND_LINKS": os.devnull}, lambda _: None)
    assert not list(tmp_path.glob(".wheels-of-*"))  # not complete, so tried again


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_list_is_written_after_the_last_wheel(
    tmp_path: Path, base: BaseEnvironment, index_environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """A process that ends after any number of wheels leaves no list, and the next one keeps them all."""
    replaced = Path.replace
    left = iter(range(moved))

    def stop(source: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return replaced(source, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        keep_wheels(base, tmp_path, index_environ, lambda _: None)
    monkeypatch.undo()
    assert not list(tmp_path.glob(".wheels-of-*"))
    assert set(NAMES) <= set(keep_wheels(base, tmp_path, index_environ, lambda _: None))
    assert not list(tmp_path.glob(".draft-*"))


def test_what_a_killed_process_fetched_is_neither_kept_nor_left(
    tmp_path: Path, base: BaseEnvironment, index_environ: Mapping[str, str]
) -> None:
    (tmp_path / ".draft-of-before").mkdir()
    (tmp_path / ".draft-of-before" / "stale-1-py3-none-any.whl").touch()
    names = keep_wheels(base, tmp_path, index_environ, lambda _: None)
    assert "stale-1-py3-none-any.whl" not in names
    prune_wheels(tmp_path, base.path.parent)
    assert not list(tmp_path.glob(".draft-*"))


def test_wheels_of_no_environment_are_removed(
    tmp_path: Path, base: BaseEnvironment, index_environ: Mapping[str, str]
) -> None:
    keep_wheels(base, tmp_path, index_environ, lambda _: None)
    (tmp_path / "old-1-py3-none-any.whl").touch()
    assert prune_wheels(tmp_path, base.path.parent) == ("old-1-py3-none-any.whl",)
    assert set(NAMES) <= set(prune_wheels(tmp_path, tmp_path / "nothing"))
    assert list(tmp_path.iterdir()) == []
