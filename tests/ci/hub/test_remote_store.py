"""A remote store: complete or absent, verified on the way, and deaf to hostile names. Here at `file://`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub.checkpoint_files import find_content_problems
from ci.hub.manifest import MANIFEST, IncompatibleManifestError
from ci.hub.remote_store import DamagedRemoteError, RemoteStore
from tests.ci.hub.checkpoints import KEY, add

if TYPE_CHECKING:
    from pathlib import Path

    from ci.hub.store import Store, StoredCheckpoint

WEIGHTS = "model.safetensors"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def remote(place: Path) -> RemoteStore:
    return RemoteStore(f"file://{place}")


@pytest.fixture
def stored(store: Store) -> StoredCheckpoint:
    add(store, size=50_000)
    found = store.find(KEY)
    assert found is not None
    return found


@pytest.fixture
def uploaded(remote: RemoteStore, stored: StoredCheckpoint, place: Path) -> Path:
    """The checkpoint at the remote place."""
    remote.upload(KEY, stored)
    return place / "checkpoints" / "owner--model" / KEY.name


def copy(remote: RemoteStore, target: Path) -> None:
    found = remote.find(KEY)
    assert found is not None
    remote.download(found, target, lambda *_: None)


def test_there_and_back(remote: RemoteStore, stored: StoredCheckpoint, uploaded: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in uploaded.iterdir()) == [MANIFEST, WEIGHTS]
    found = remote.find(KEY)
    assert found is not None
    assert (found.manifest, found.manifest_sha256) == (stored.manifest, stored.manifest_sha256)
    seen: list[tuple[int, int]] = []
    (tmp_path / "back").mkdir()
    remote.download(found, tmp_path / "back", lambda done, total: seen.append((done, total)))
    assert seen == [(50_000, 50_000)]
    assert find_content_problems(tmp_path / "back", stored.manifest) == []
    assert (tmp_path / "back" / MANIFEST).read_bytes() == (stored.path / MANIFEST).read_bytes()


def test_what_is_not_there(remote: RemoteStore, uploaded: Path) -> None:
    assert remote.find(replace(KEY, layers=3)) is None
    assert RemoteStore("memory://nothing").find(KEY) is None
    shutil.copytree(uploaded, uploaded.with_name(replace(KEY, layers=3).name))
    assert remote.find(replace(KEY, layers=3)) is None, "a copy under another name is still what its manifest says"


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_a_torn_upload_is_absent(remote: RemoteStore, uploaded: Path, name: str) -> None:
    (uploaded / name).write_bytes((uploaded / name).read_bytes()[:-1])
    assert remote.find(KEY) is None or name == MANIFEST
    (uploaded / name).unlink()
    assert remote.find(KEY) is None


def test_a_torn_manifest_is_absent(remote: RemoteStore, uploaded: Path) -> None:
    (uploaded / MANIFEST).write_bytes((uploaded / MANIFEST).read_bytes()[:-100])
    assert remote.find(KEY) is None


def test_the_manifest_is_written_last(
    remote: RemoteStore, stored: StoredCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    put = RemoteStore._put

    def note(self: RemoteStore, source: Path, target: str) -> None:
        order.append(source.name)
        put(self, source, target)

    monkeypatch.setattr(RemoteStore, "_put", note)
    remote.upload(KEY, stored)
    assert order == [WEIGHTS, MANIFEST]


def test_a_place_that_does_not_keep_what_it_got(
    remote: RemoteStore, stored: StoredCheckpoint, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemoteStore, "_put", lambda *_: None)
    place.mkdir()
    with pytest.raises(InfrastructureError, match=f"{WEIGHTS} was not kept as it was written"):
        remote.upload(KEY, stored)


def test_other_bytes_are_found_on_the_way(remote: RemoteStore, uploaded: Path, tmp_path: Path) -> None:
    (uploaded / WEIGHTS).write_bytes(b"y" + b"x" * 49_999)
    (tmp_path / "back").mkdir()
    with pytest.raises(DamagedRemoteError, match=f"{WEIGHTS} has other content than its manifest says"):
        copy(remote, tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == [], "a damaged file, or a manifest, is left"


def test_a_copy_that_was_interrupted_goes_on(
    remote: RemoteStore, uploaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "back"
    (target / "downloads").mkdir(parents=True)
    (target / "downloads" / "x.bin").write_bytes(b"of another fetch")
    (target / ".parts.jsonl").touch()
    shutil.copy(uploaded / WEIGHTS, target)
    monkeypatch.setattr(RemoteStore, "_iter_pieces", lambda *_: pytest.fail("it was there already"))
    copy(remote, target)
    assert sorted(path.name for path in target.iterdir()) == [MANIFEST, WEIGHTS]


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a\\b", "x/" + MANIFEST])
def test_a_listing_with_a_hostile_name_is_refused(remote: RemoteStore, uploaded: Path, name: str) -> None:
    target = uploaded / name
    target.parent.mkdir(exist_ok=True)
    target.touch()
    if name.startswith("x/"):
        assert remote.find(KEY) is not None, "a file that is not named is not copied"
        return
    with pytest.raises(InfrastructureError, match="which no checkpoint has; remove it") as refused:
        remote.find(KEY)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["../../../evil", "/etc/evil", "a/../../evil"])
def test_a_manifest_with_a_hostile_name_is_absent(
    remote: RemoteStore, uploaded: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = json.loads((uploaded / MANIFEST).read_text())
    manifest["files"][name] = manifest["files"][WEIGHTS]
    (uploaded / MANIFEST).write_text(json.dumps(manifest))
    sizes = {WEIGHTS: 50_000, MANIFEST: 1}
    assert remote.find(KEY) is None
    monkeypatch.setattr(RemoteStore, "_list_sizes", lambda *_: {**sizes, name: 50_000})
    with pytest.raises(InfrastructureError, match="which no checkpoint has"):
        remote.find(KEY)
    assert not (tmp_path / "evil").exists()


def test_a_newer_version_wrote_it(remote: RemoteStore, uploaded: Path) -> None:
    (uploaded / MANIFEST).write_text('{"schema": 2}')
    with pytest.raises(IncompatibleManifestError, match="written by a newer hub-tests"):
        remote.find(KEY)


def test_a_manifest_without_end(remote: RemoteStore, uploaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert uploaded.exists()
    monkeypatch.setattr("ci.hub.remote_store.MAX_MANIFEST", 10)
    with pytest.raises(InfrastructureError, match="at most 10 are read"):
        remote.find(KEY)


def test_a_place_that_cannot_be_reached_is_one_line(remote: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemoteStore, "_read_manifest", raise_two_lines)
    with pytest.raises(InfrastructureError, match=r"cannot be read: PermissionError: no access; check the address"):
        remote.find(KEY)


def raise_two_lines(*_: object) -> None:
    raise PermissionError("no\n access")


def test_a_place_without_room_for_whole_files_gets_drafts(uploaded: Path, remote: RemoteStore) -> None:
    (uploaded / f"{WEIGHTS}.0a1b2c3d.part").write_bytes(b"of a killed upload")
    assert remote.find(KEY) is not None
