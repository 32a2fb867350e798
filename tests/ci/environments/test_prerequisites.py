"""What a machine lacks is told before anything is downloaded or built, one line each."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.environments.prerequisites import check_prerequisites
from ci.errors import InfrastructureError
from tests.ci.environments.conftest import DESCRIPTION

if TYPE_CHECKING:
    from pathlib import Path

    from ci.environments.base import BaseEnvironment

COMPILED = replace(DESCRIPTION, compiler="c++")


def tool(folder: Path, name: str, text: str = "echo 14.2.0") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def told(description: object = COMPILED, **how: object) -> list[str]:
    """The lines about a machine; none where nothing is missing."""
    lines: list[str] = []
    environ = how.pop("environ")
    with suppress(InfrastructureError):
        check_prerequisites(description, how.pop("roots", ()), environ, lines.append, **how)  # type: ignore[arg-type]
        assert lines == []
    return lines


def test_a_bare_machine_is_told_everything_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    wanted = replace(COMPILED, python=">=4")
    lines = told(wanted, environ={"PATH": str(tmp_path)}, clones=True)
    assert lines == [
        "missing: git: apt install git",
        "missing: Python >=4: apt install python3.12 python3.12-dev, or: pip install uv, which brings one",
        "missing: C++ compiler: apt install g++",
    ]
    with pytest.raises(InfrastructureError, match="lacks git, Python >=4, C\\+\\+ compiler: install"):
        check_prerequisites(wanted, (), {"PATH": str(tmp_path)}, print, clones=True)


def test_what_is_there_is_not_missing(tmp_path: Path) -> None:
    tool(tmp_path, "git")
    tool(tmp_path, "g++")
    include = tmp_path / "include"
    include.mkdir()
    (include / "Python.h").touch()
    python = tool(tmp_path, "python", f"echo 3.12 {include}")
    environ = {"PATH": str(tmp_path)}
    assert told(environ=environ, python=str(python), clones=True) == []
    (include / "Python.h").unlink()
    (line,) = told(environ=environ, python=str(python))
    assert line.startswith("missing: Python headers: apt install python3.12-dev")


def test_a_compiler_that_does_not_run_is_none(tmp_path: Path) -> None:
    tool(tmp_path, "g++", "exit 1")
    lines = told(environ={"PATH": str(tmp_path)})
    assert "missing: C++ compiler: apt install g++" in lines


def test_a_subject_that_compiles_nothing_needs_no_compiler(tmp_path: Path) -> None:
    assert told(DESCRIPTION, environ={"PATH": str(tmp_path)}) == []


def test_with_a_base_it_is_the_bases_interpreter_that_counts(tmp_path: Path, base: BaseEnvironment) -> None:
    """Its own has the headers, or has not: another one on the path changes nothing."""
    environ = {"PATH": os.environ["PATH"]}
    wanted = replace(base.manifest.description, python=">=4")
    assert told(base.manifest.description, environ=environ, roots=(base.path.parent,)) == []
    uv_brings_it = told(wanted, environ=environ, roots=(base.path.parent,))
    assert not any("Python >=4" in line for line in uv_brings_it)
