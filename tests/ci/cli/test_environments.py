"""The verbs `env`: what they print, and their exit codes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
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
    """A complete environment, with nothing but an interpreter."""
    path = tmp_path / f"mine-{DESCRIPTION.digest[:16]}"
    (path / "bin").mkdir(parents=True)
    (path / "bin/python").symlink_to(sys.executable)
    files = f"link:{hashlib.sha256(sys.executable.encode()).hexdigest()}  bin/python\n"
    (path / "files.sha256").write_text(files)
    digest = hashlib.sha256(files.encode()).hexdigest()
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


def damage(environment: Path, how: str) -> None:
    """Do to an environment what people, disks and kills do."""
    manifest = environment / MANIFEST
    text = manifest.read_text()
    if how == "half removed":
        (environment / "bin/python").unlink()
    elif how == "no list":
        (environment / "files.sha256").unlink()
    elif how == "a list that is no text":
        (environment / "files.sha256").write_bytes(b"\xff\n")
    elif how == "an empty manifest":
        manifest.write_text("")
    elif how == "a cut manifest":
        manifest.write_text(text[: len(text) // 2])
    elif how == "another's manifest":
        manifest.write_text(text.replace('">=3.11"', '">=3.9"'))
    elif how == "odd names":
        for name in (b"a\nb", "c\u2028d".encode(), b"\xff"):
            (environment / os.fsdecode(name)).write_text("")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("half removed", "bin/python is missing"),
        ("no list", "files.sha256 cannot be read: No such file or directory"),
        ("a list that is no text", "files.sha256 is not the one that was written"),
        ("a cut manifest", "damaged, remove it and build it again"),
        ("another's manifest", "environment.json describes another environment"),
        ("odd names", "'\\udcff' was added"),
    ],
)
def test_verify_names_every_damage_in_one_line(
    environment: Path, how: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(environment, how)
    assert main(["env", "verify"]) == 3
    told = capsys.readouterr()
    assert said in told.out
    assert len(told.out.splitlines()) == len(told.err.splitlines()) == 1
    assert main(["env", "verify", "--json"]) == 3
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["path"] == str(environment)
    assert said in answer["problems"][0]


def test_verify_takes_no_half_built_environment_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the directory is called in which it lies."""
    root = tmp_path / "damaged: once"
    (root / f"other-{'0' * 16}").mkdir(parents=True)
    monkeypatch.setenv("HUB_TESTS_ENVIRONMENTS", str(root))
    assert main(["env", "verify"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "not complete: is being built, or was left by a kill" in told.err


def test_verify_also_hashes_what_others_built(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HUB_TESTS_ENVIRONMENTS", str(tmp_path / "own"))
    monkeypatch.setenv("HUB_TESTS_SHARED_ENVIRONMENTS", str(tmp_path))
    assert main(["env", "verify"]) == 0
    (environment / "added").write_text("")
    assert main(["env", "verify"]) == 3
    assert "added was added" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["an empty manifest", "a cut manifest"])
def test_one_damaged_environment_hides_no_other_and_is_pruned(
    environment: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(environment, how)
    assert main(["env", "ls", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == []
    assert f"{environment}: " in told.err
    assert main(["env", "prune", "--days", "1"]) == 0
    assert environment.exists(), "it is young"
    os.utime(environment, (0, 0))
    with (tmp_path / f".{environment.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["env", "prune", "--days", "1"]) == 0
        assert environment.exists(), "somebody builds it"
    assert main(["env", "prune", "--days", "1", "--dry-run"]) == 0
    assert f"{environment}  not complete" in capsys.readouterr().out
    assert environment.exists()
    assert main(["env", "prune", "--days", "1"]) == 0
    assert not environment.exists()


def test_an_interpreter_that_left_the_machine_is_named_and_nothing_removed(
    environment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text('python = ">=3.11"\nrequirements = []\n')
    (environment / "bin/python").unlink()
    (environment / "bin/python").symlink_to("/nowhere/python3.12")
    assert main(["env", "build", str(tmp_path / "mine.toml")]) == 3
    assert "its interpreter /nowhere/python3.12 is not on this machine: install" in capsys.readouterr().err
    assert (environment / MANIFEST).exists()


def test_a_directory_of_another_environment_is_not_taken_for_it(
    environment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text('python = ">=3.11"\nrequirements = []\n')
    text = (environment / MANIFEST).read_text()
    (environment / MANIFEST).write_text(text.replace(DESCRIPTION.digest, "0" * 64))
    assert main(["env", "build", str(tmp_path / "mine.toml")]) == 3
    assert "holds another environment than its name says" in capsys.readouterr().err


def test_pruning_where_nothing_can_be_written_is_one_line(
    environment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f".{environment.name}.lock").mkdir()
    assert main(["env", "prune", "--days", "30"]) == 3
    assert f"{tmp_path}: cannot be changed: Is a directory" in capsys.readouterr().err
    assert environment.exists()


@pytest.mark.parametrize("python", ["python3.99", "3.11", "python 3"])
def test_an_interpreter_that_is_not_on_the_path_is_a_wrong_request(
    environment: Path, tmp_path: Path, python: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.toml").write_text('python = ">=3.11"\nrequirements = []\n')
    assert main(["env", "build", str(tmp_path / "other.toml"), "--python", python]) == 2
    assert f"--python {python}: no such program" in capsys.readouterr().err


def test_a_file_of_newest_versions_that_cannot_be_written_is_a_wrong_request(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ci.environments.newest.resolve_newest", lambda description, _: description)
    other = tmp_path / "other.toml"
    other.write_text('python = ">=3.11"\nrequirements = []\n')
    for file, said in ((other / "n.toml", f"{other}: cannot be written"), (tmp_path, f"{tmp_path}: cannot be written")):
        assert main(["env", "build", str(other), "--newest", str(file)]) == 2
        assert f"--newest {said}" in capsys.readouterr().err


def test_what_the_shell_sees_is_the_answer_alone(environment: Path, tmp_path: Path) -> None:
    """A process of its own: stdout has one line, diagnostics are on stderr."""
    (tmp_path / "mine.toml").write_text('python = ">=3.11"\nrequirements = []\n')
    command = [sys.executable, "-m", "ci", "env", "build", str(tmp_path / "mine.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{environment}/bin/python\n"
