"""The Python files of a repository at one commit: bounded, verified, apart from every checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError, RemoteCodeError, RequestError
from ci.hub import code_files
from ci.hub.code_files import copy_code
from ci.hub.code_files import fetch_code as fetch
from ci.hub.code_manifest import CodeManifest
from ci.hub.fetch import fetch as fetch_checkpoint
from ci.hub.manifest import FileEntry
from ci.hub.remote_code import RemoteCodeStore
from ci.hub.store_paths import CODE_MANIFEST
from ci.records import read_json, to_json
from tests.ci.hub.samples import MODEL, REQUEST, make_repository

if TYPE_CHECKING:
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer

CODE = {"modeling_own.py": "from .configuration_own import X\n", "configuration_own.py": "X = 1\n"}


def fetch_code(model_id: str, commit: str, settings: Settings) -> Path:
    return fetch(model_id, commit, settings).path


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
    assert {path.name for path in directory.iterdir()} == {*CODE, CODE_MANIFEST}
    newer = fetch_code(MODEL, second, settings)
    assert (newer / "modeling_own.py").read_text() == "# newer\n"
    assert directory.is_dir(), "each commit has its own"
    checkpoint = fetch_checkpoint(REQUEST, settings)
    assert not [*settings.cache.glob("checkpoints/**/*.py")], "a checkpoint has no code"
    assert checkpoint.revision == second


def test_what_is_in_the_store_needs_no_hub(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    commit = add_model(hub, tmp_path / "m")
    with pytest.raises(InfrastructureError, match=r"HF_HUB_OFFLINE, or a test job\); fetch the entry once"):
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
        name = directory / CODE_MANIFEST if damage == "manifest" else file
        name.chmod(0o644)
        name.unlink()
        if damage == "changed":
            name.write_text("#" * len(text))
        elif damage == "linked":
            (tmp_path / "elsewhere.py").write_text(text)
            name.symlink_to(tmp_path / "elsewhere.py")
    again = fetch_code(MODEL, commit, settings)
    assert {path.name for path in again.iterdir()} == {*CODE, CODE_MANIFEST}
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
    manifest = CodeManifest(MODEL, commit, {})
    with pytest.raises(OSError, match=r"."):
        code_files._replace(tmp_path / "absent", directory.parent / "none", manifest)
    stored = read_json(CodeManifest, (directory / CODE_MANIFEST).read_bytes(), what="it")
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "x.py").write_text("")
    code_files._replace(tmp_path / "late", directory, stored)
    assert {path.name for path in directory.iterdir()} == {*CODE, CODE_MANIFEST}


def remote_settings(settings: Settings, place: Path, name: str) -> Settings:
    """Settings of another machine, which asks no Hub and shares a place."""
    return replace(settings, cache=settings.cache.parent / name, store_url=f"file://{place}", offline=True)


def forge(directory: Path, text: str) -> None:
    """Change a file and its manifest, so that they agree with each other."""
    (directory / "modeling_own.py").chmod(0o644)
    (directory / "modeling_own.py").write_text(text)
    path = directory / CODE_MANIFEST
    manifest = read_json(CodeManifest, path.read_bytes(), what="it")
    entry = FileEntry(len(text), hashlib.sha256(text.encode()).hexdigest())
    path.chmod(0o644)
    path.write_text(to_json(replace(manifest, files={**manifest.files, "modeling_own.py": entry})))


def test_a_remote_store_carries_the_code_to_a_machine_without_the_hub(
    hub: HubServer, settings: Settings, tmp_path: Path
) -> None:
    commit, place = add_model(hub, tmp_path / "m"), tmp_path / "place"
    fetched = fetch(MODEL, commit, replace(settings, store_url=f"file://{place}", uploads=True))
    assert (fetched.bytes_fetched, {path.name for path in place.glob("code/*/*/*")}) == (39, {*CODE, CODE_MANIFEST})
    asked, other = len(hub.log), remote_settings(settings, place, "other")
    copied = fetch(MODEL, commit, other)
    assert len(hub.log) == asked
    assert (copied.path.is_relative_to(other.cache), copied.digest, copied.bytes_fetched) == (True, fetched.digest, 39)
    assert {path.name: path.read_text() for path in copied.path.glob("*.py")} == CODE
    assert fetch(MODEL, commit, other).bytes_fetched == 0
    admitted = copy_code(MODEL, commit, tmp_path / "admitted", other.store_url, fetched.digest)
    assert admitted.digest == fetched.digest


@pytest.mark.parametrize("damage", ["changed", "longer", "shorter", "removed", "added", "manifest", "other commit"])
def test_a_changed_byte_in_the_remote_store_is_never_used(
    damage: str, hub: HubServer, settings: Settings, tmp_path: Path
) -> None:
    commit, place = add_model(hub, tmp_path / "m"), tmp_path / "place"
    fetched = fetch(MODEL, commit, replace(settings, store_url=f"file://{place}", uploads=True))
    (directory,) = place.glob("code/*/*")
    file = directory / "modeling_own.py"
    text = file.read_text()
    changed = {"changed": "#" * len(text), "longer": f"{text}#", "shorter": text[:-1]}
    if damage in changed:
        file.chmod(0o644)
        file.write_text(changed[damage])
    elif damage == "removed":
        file.unlink()
    elif damage == "added":
        (directory / "sitecustomize.py").write_text("raise SystemExit")
    else:
        manifest = directory / CODE_MANIFEST
        manifest.chmod(0o644)
        manifest.write_text(manifest.read_text().replace(commit, "0" * 40) if damage == "other commit" else "{}")
    other = remote_settings(settings, place, "other")
    if damage == "added":  # what the manifest does not name is not read
        assert {path.name for path in fetch(MODEL, commit, other).path.glob("*.py")} == set(CODE)
        return
    with pytest.raises(InfrastructureError):
        fetch(MODEL, commit, other)
    with pytest.raises(InfrastructureError):
        copy_code(MODEL, commit, other.cache, other.store_url, fetched.digest)
    assert not [*other.cache.glob("code/*/*")], "nothing is left"
    fetch(MODEL, commit, replace(other, offline=False, uploads=True))
    assert RemoteCodeStore(f"file://{place}").read_code(MODEL, commit, fetched.digest) is not None, "written anew"


@pytest.mark.parametrize("where", ["remote", "local", "both"])
def test_code_that_agrees_with_a_forged_manifest_is_not_what_the_fetch_job_saw(
    where: str, hub: HubServer, settings: Settings, tmp_path: Path
) -> None:
    commit, place = add_model(hub, tmp_path / "m"), tmp_path / "place"
    fetched = fetch(MODEL, commit, replace(settings, store_url=f"file://{place}", uploads=True))
    other = remote_settings(settings, place, "other")
    local = fetch(MODEL, commit, other).path
    forged = [*([local] if where != "remote" else []), *(place.glob("code/*/*") if where != "local" else [])]
    for directory in forged:
        directory.chmod(0o755)
        forge(directory, "X = 'evil'\n")
    if where == "both":
        with pytest.raises(InfrastructureError, match="with the digest that was fetched for this run"):
            copy_code(MODEL, commit, other.cache, other.store_url, fetched.digest)
        return
    admitted = copy_code(MODEL, commit, other.cache, other.store_url, fetched.digest)
    assert (admitted.path / "modeling_own.py").read_text() == CODE["modeling_own.py"]


def test_the_hub_is_asked_before_the_remote_store(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    """What a machine that reaches the Hub fetches is never what somebody wrote into a bucket."""
    commit, place = add_model(hub, tmp_path / "m"), tmp_path / "place"
    fetch(MODEL, commit, replace(settings, store_url=f"file://{place}", uploads=True))
    (directory,) = place.glob("code/*/*")
    forge(directory, "X = 'evil'\n")
    online = replace(settings, cache=tmp_path / "online", store_url=f"file://{place}")
    assert (fetch(MODEL, commit, online).path / "modeling_own.py").read_text() == CODE["modeling_own.py"]
