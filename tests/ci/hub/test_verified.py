"""A hit is hashed, unless a record that nobody else could write says that it was, and nobody could write it since."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.hub import checkpoint_files, verified
from ci.hub.store_paths import StorePaths
from ci.hub.verified import is_private, read_file_system
from tests.ci.hub.checkpoints import KEY, add

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.hub.store import Store

WEIGHTS = "model.safetensors"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were hashed so far, of checkpoints that were settled long ago, on a local file system."""
    names: list[str] = []
    original = checkpoint_files._hash_file

    def note(path: Path) -> str:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(checkpoint_files, "_hash_file", note)
    monkeypatch.setattr(verified, "SETTLED", -60.0)
    monkeypatch.setattr(verified, "read_file_system", lambda _: "ext4")
    return names


def test_a_hit_is_hashed_once(store: Store, hashed: list[str]) -> None:
    add(store)
    for _ in range(3):
        assert store.find_verified(KEY) is not None
    assert hashed == [WEIGHTS]


def test_what_changed_lately_is_hashed_again(store: Store, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system cannot tell two changes within one tick of its clock apart."""
    monkeypatch.setattr(verified, "SETTLED", 2.0)
    add(store)
    for _ in range(2):
        assert store.find_verified(KEY) is not None
    assert hashed == [WEIGHTS, WEIGHTS]


def rewrite_with_old_times(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"y" + b"x" * 4095)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_with_old_times(path: Path) -> None:
    status = path.stat()
    path.unlink()
    path.write_bytes(b"y" + b"x" * 4095)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("harm", [rewrite_with_old_times, replace_with_old_times])
def test_a_change_that_hides_its_time_is_found(store: Store, hashed: list[str], harm: Callable[[Path], None]) -> None:
    path = add(store)
    assert store.find_verified(KEY) is not None
    harm(path / WEIGHTS)
    assert store.find_verified(KEY) is None
    assert hashed == [WEIGHTS, WEIGHTS]


@pytest.mark.parametrize("place", [".", "checkpoints", "verified", "model", "entry", "file"])
def test_what_others_may_write_is_hashed_each_time(store: Store, hashed: list[str], place: str) -> None:
    path = add(store)
    assert store.find_verified(KEY) is not None
    named = {"model": path.parent, "entry": path, "file": path / WEIGHTS}
    target = named.get(place, store.root / place)
    target.chmod(target.stat().st_mode | 0o020)
    for _ in range(2):
        assert store.find_verified(KEY) is not None
    assert len(hashed) == 3


def test_a_record_that_others_may_write_is_replaced(store: Store, hashed: list[str]) -> None:
    path = add(store)
    assert store.find_verified(KEY) is not None
    StorePaths(store.root).verified_path(path).chmod(0o620)
    for _ in range(2):
        assert store.find_verified(KEY) is not None
    assert len(hashed) == 2


def test_another_users_file_is_not_private(store: Store, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, paths = add(store), StorePaths(store.root)
    assert is_private(paths, path, [WEIGHTS])
    owner = (path / WEIGHTS).stat().st_uid
    if owner == 0:
        os.chown(path / WEIGHTS, 4711, 4711)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert not is_private(paths, path, [WEIGHTS])


def test_a_shared_file_system_is_not_trusted(store: Store, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "read_file_system", lambda _: "nfs4")
    add(store)
    for _ in range(2):
        assert store.find_verified(KEY) is not None
    assert hashed == [WEIGHTS, WEIGHTS]
    assert list((store.root / "verified").iterdir()) == []


def test_a_record_of_another_manifest_is_not_believed(store: Store, hashed: list[str]) -> None:
    add(store)
    assert store.find_verified(KEY) is not None
    (record,) = (store.root / "verified").iterdir()
    content = json.loads(record.read_text())
    for wrong in (json.dumps({**content, "manifest_sha256": "0" * 64}), "{"):
        record.write_text(wrong)
        assert store.find_verified(KEY) is not None
    assert len(hashed) == 3


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    assert read_file_system(Path("/proc/self")) == "proc"
    assert read_file_system(tmp_path) not in ("", "proc")
