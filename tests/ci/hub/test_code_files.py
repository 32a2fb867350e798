"""The Python files of a repository at one commit: bounded, verified, apart from every checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError, RemoteCodeError, RequestError
from ci.hub import code_files
from ci.hub.code_files import MANIFEST, fetch_code
from ci.hub.fetch import fetch
from ci.records import read_json
from tests.ci.hub.samples import MODEL, REQUEST, make_repository

if TYPE_CHECKING:
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer

CODE = {"modeling_own.py": "from .configuration_own import X\n", "configuration_own.py": "X = 1\n"}


def add_model(hub: HubServer, directory: Path, code: dict[str, str] = CODE) -> str:
    """Serve a model that has exactly this code, and a directory with more."""
    make_repository(directory)
    (directory / "modeling_custom.py").unlink()
    for name, text in code.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    return hub.add(MODEL, directory)


def test_exactly_the_code_of_the_commit_is_brought(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    others = {"scripts/train.py": "", "not-a-module.py": "", "notes.txt": ""}
    first = add_model(hub, tmp_path / "first", CODE | others)
    second = add_model(hub, tmp_path / "second", CODE | {"modeling_own.py": "# newer\n"})
    directory = fetch_code(MODEL, first, settings)
    assert {path.name: path.read_text() for path in directory.glob("*.py")} == CODE
    assert {path.name for path in directory.iterdir()} == {*CODE, MANIFEST}
    newer = fetch_code(MODEL, second, settings)
    assert (newer / "modeling_own.py").read_text() == "# newer\n"
    assert directory.is_dir(), "each commit has its own"
    checkpoint = fetch(REQUEST, settings)
    assert not [*settings.cache.glob("checkpoints/**/*.py")], "a checkpoint has no code"
    assert checkpoint.revision == second


def test_what_is_in_the_store_needs_no_hub(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    commit = add_model(hub, tmp_path / "m")
    with pytest.raises(InfrastructureError, match="HF_HUB_OFFLINE is set; fetch the entry once"):
        fetch_code(MODEL, commit, replace(settings, offline=True))
    fetch_code(MODEL, commit, settings)
    asked = len(hub.log)
    assert fetch_code(MODEL, commit, replace(settings, offline=True)).is_dir()
    assert len(hub.log) == asked


@pytest.mark.parametrize("damage", ["changed", "added", "removed", "linked", "manifest"])
def test_code_that_was_changed_in_the_store_is_brought_again(
    damage: str, hub: HubServer, settings: Settings, tmp_path: Path
) -> None:
    commit = add_model(hub, tmp_path / "m")
    directory = fetch_code(MODEL, commit, settings)
    file = directory / "modeling_own.py"
    text = file.read_text()
    if damage == "added":
        (directory / "sitecustomize.py").write_text("raise SystemExit")
    else:
        name = directory / MANIFEST if damage == "manifest" else file
        name.chmod(0o644)
        name.unlink()
        if damage == "changed":
            name.write_text("#" * len(text))
        elif damage == "linked":
            (tmp_path / "elsewhere.py").write_text(text)
            name.symlink_to(tmp_path / "elsewhere.py")
    again = fetch_code(MODEL, commit, settings)
    assert {path.name for path in again.iterdir()} == {*CODE, MANIFEST}
    assert (again / "modeling_own.py").read_text() == text
    assert not (again / "modeling_own.py").is_symlink()


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_FILES", 1), ("MAX_FILE_BYTES", 20), ("MAX_BYTES", 30)], ids=["number", "one", "all"]
)
def test_too_much_code_is_a_limit_of_hub_tests(
    limit: str, value: int, hub: HubServer, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = add_model(hub, tmp_path / "m")
    monkeypatch.setattr(code_files, limit, value)
    with pytest.raises(RemoteCodeError, match=r"2 Python files of 39 bytes, the largest modeling_own.py of 33"):
        fetch_code(MODEL, commit, settings)
    assert not [*settings.cache.glob("code/*/*")], "nothing is left"


def test_what_is_no_commit_or_has_no_code_is_a_wrong_request(
    hub: HubServer, settings: Settings, tmp_path: Path
) -> None:
    commit = add_model(hub, tmp_path / "m", {})
    with pytest.raises(RequestError, match=r"no Python files beside config\.json"):
        fetch_code(MODEL, commit, settings)
    with pytest.raises(RequestError, match="expected a full commit of 40 hex digits"):
        fetch_code(MODEL, "main", settings)
    with pytest.raises(RequestError, match="0000000"):
        fetch_code(MODEL, "0" * 40, settings)


def test_a_file_with_other_content_than_the_commit_lists_is_refused(
    hub: HubServer, settings: Settings, tmp_path: Path
) -> None:
    commit = add_model(hub, tmp_path / "m")
    (tmp_path / "m" / "modeling_own.py").write_text("import evil  # as long as the first \n"[:33])
    with pytest.raises(InfrastructureError, match="does not match its digest"):
        fetch_code(MODEL, commit, settings)
    assert not [*settings.cache.glob("code/*/*")]


def test_two_that_write_at_once_leave_one(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    commit = add_model(hub, tmp_path / "m")
    directory = fetch_code(MODEL, commit, settings)
    manifest = code_files.CodeManifest(MODEL, commit, {})
    with pytest.raises(OSError, match=r"."):
        code_files._replace(tmp_path / "absent", directory.parent / "none", manifest)
    stored = read_json(code_files.CodeManifest, (directory / MANIFEST).read_bytes(), what="it")
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "x.py").write_text("")
    code_files._replace(tmp_path / "late", directory, stored)
    assert {path.name for path in directory.iterdir()} == {*CODE, MANIFEST}
