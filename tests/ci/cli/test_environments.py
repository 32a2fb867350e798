"""The verbs `env`: what they print, and their exit codes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.__main__ import main
from ci.environments.base import MANIFEST, BaseManifest
from ci.environments.description import EnvironmentDescription
from ci.errors import RequestError
from ci.records import read_json, to_json

if TYPE_CHECKING:
    from pathlib import Path

DESCRIPTION = EnvironmentDescription("mine", ">=3.11", ())


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A complete environment, with an empty list of files."""
    path = tmp_path / f"mine-{DESCRIPTION.digest[:16]}"
    path.mkdir()
    (path / "files.sha256").write_text("")
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    manifest = BaseManifest(DESCRIPTION, DESCRIPTION.digest, "3.12.1", {"torch": "2.9"}, "uv 0.9", 0.0, digest)
    (path / MANIFEST).write_text(to_json(manifest))
    os.utime(path / MANIFEST, (0, 0))
    monkeypatch.setenv("HUB_TESTS_ENVIRONMENTS", str(tmp_path))
    return path


def test_an_interpreter_that_is_not_there_is_no_missing_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "build", "fast_llm", "--python", "/no/such/python"]) == 2
    assert capsys.readouterr().err.startswith("hub-tests: --python /no/such/python: not an executable file; expected")


def test_ls_names_path_and_versions(environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "ls"]) == 0
    assert capsys.readouterr().out.strip() == f"{environment}  Python 3.12.1  torch 2.9"
    assert main(["env", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["digest"] == DESCRIPTION.digest


def test_verify_ends_with_3_where_a_file_was_added(environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "verify"]) == 0
    (environment / "sitecustomize.py").write_text("")
    assert main(["env", "verify"]) == 3
    assert "sitecustomize.py was added" in capsys.readouterr().out


def test_prune_needs_an_age_and_can_only_look(environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "prune"]) == 2
    assert main(["env", "prune", "--days", "30", "--dry-run"]) == 0
    assert environment.exists()
    assert main(["env", "prune", "--days", "30"]) == 0
    assert not environment.exists()


def test_prune_also_removes_compiled_code(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = tmp_path / "compiled" / f"{'a' * 32}-{'b' * 64}.tar"
    layer.parent.mkdir()
    layer.write_bytes(bytes(2**20))
    os.utime(layer, (0, 0))
    assert main(["env", "prune", "--days", "30"]) == 0
    assert layer.exists()
    monkeypatch.setenv("HUB_TESTS_COMPILE_CACHE", str(layer.parent))
    assert main(["env", "prune", "--days", "30", "--dry-run"]) == 0
    assert f"{layer}  1.0 MiB of compiled code" in capsys.readouterr().out
    assert layer.exists()
    assert main(["env", "prune", "--days", "30", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert not layer.exists()


def test_what_is_optional_and_cannot_be_built_is_said_and_is_no_failure(
    environment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none.toml").write_text('name = "none"\npython = ">=9"\nrequirements = []\n')
    assert main(["env", "build", str(tmp_path / "none.toml")]) != 0
    capsys.readouterr()
    assert main(["env", "build", str(tmp_path / "none.toml"), "--optional"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "environment 'none' is not built, what needs it will not run: " in said.err
    assert main(["env", "build", str(tmp_path / "unknown.toml"), "--optional"]) == 2, "no description at all"


def test_build_finds_what_is_there(environment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"\npython = ">=3.11"\nrequirements = []\n')
    assert main(["env", "build", str(tmp_path / "mine.toml")]) == 0
    assert capsys.readouterr().out.strip() == str(environment / "bin" / "python")


def test_what_the_verbs_did_is_said(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["env", "verify"]) == 0
    assert f"1 in {environment.parent}: each file is as it was built" in capsys.readouterr().err
    assert main(["env", "prune", "--days", "30", "--dry-run"]) == 0
    assert f"would remove 1 from {environment.parent}" in capsys.readouterr().err
    monkeypatch.setenv("HUB_TESTS_ENVIRONMENTS", str(tmp_path / "empty"))
    assert main(["env", "ls"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert f"no environments in {tmp_path / 'empty'}; hub-tests env build makes one" in told.err


def test_an_interpreter_for_what_is_there_already_is_said_to_change_nothing(
    environment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = EnvironmentDescription("mine", ">=3.11", ("any",))
    file = tmp_path / "mine.toml"
    file.write_text('python = ">=3.11"\nrequirements = ["any"]\n')
    manifest = read_json_manifest(environment)
    other = environment.with_name(f"mine-{description.digest[:16]}")
    environment.rename(other)
    (other / MANIFEST).write_text(to_json(replace(manifest, description=description, digest=description.digest)))
    assert main(["env", "build", str(file), "--python", "/nowhere/python"]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == f"{other}/bin/python"
    assert "it was there already, with Python 3.12.1: --python changed nothing" in told.err


def read_json_manifest(environment: Path) -> BaseManifest:
    return read_json(BaseManifest, (environment / MANIFEST).read_bytes(), what="manifest", error=RequestError)
