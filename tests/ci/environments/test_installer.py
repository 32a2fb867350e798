"""uv where it is, else pip; an interpreter that runs and fits."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.environments.base import build_base
from ci.environments.installer import PipInstaller, UvInstaller, find_installer, find_python
from ci.errors import RequestError
from tests.ci.environments.conftest import DESCRIPTION

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def test_uv_builds_the_same(tmp_path: Path, index_environ: Mapping[str, str]) -> None:
    installer = find_installer(index_environ)
    if not isinstance(installer, UvInstaller):
        pytest.skip("uv is not installed")
    built = build_base(tmp_path, replace(DESCRIPTION, requirements=("prebuilt",)), installer, python=sys.executable)
    assert built.manifest.packages["prebuilt"] == "1.0"
    assert built.manifest.installer.startswith("uv ")
    assert "--hash=sha256:" in (built.path / "requirements.lock").read_text()


def test_without_uv_it_is_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    assert isinstance(find_installer({"PATH": "/nowhere"}), PipInstaller)


def test_an_interpreter_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    launcher = tmp_path / "python3.13"
    launcher.write_text("#!/bin/sh\nexit 1\n")
    launcher.chmod(0o755)
    assert find_python(">=3.13,<3.14", {"PATH": str(tmp_path)}) in (None, sys.executable)
    assert find_python(">=3.11", {"PATH": str(tmp_path)}) == sys.executable


def test_no_fitting_interpreter_is_said(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no Python >=4 on the path"):
        PipInstaller({"PATH": "/nowhere"}).create(tmp_path / "new", ">=4", lambda _: None)
