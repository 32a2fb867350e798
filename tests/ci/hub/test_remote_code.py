"""The code of models at a remote place: read whole or not at all, pruned like the checkpoints beside it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ci.errors import InfrastructureError
from ci.hub.code_manifest import MAX_CODE_MANIFEST, find_code
from ci.hub.prune import PruneRequest
from ci.hub.remote_code import RemoteCodeStore
from ci.hub.remote_prune import list_remote_entries, prune_remote_store
from ci.hub.remote_store import DamagedRemoteError
from ci.hub.store_paths import CODE_MANIFEST
from tests.ci.hub.test_code_manifest import COMMIT, MODEL, store_code

DAY = 24 * 3600.0


@pytest.fixture
def remote(tmp_path: Path) -> RemoteCodeStore:
    """A place with the code of one model."""
    directory = store_code(tmp_path / "local", a="X = 1\n", b="")
    manifest = find_code(directory)
    assert manifest is not None
    made = RemoteCodeStore(f"file://{tmp_path}/place")
    made.upload_code(directory, manifest)
    return made


def place(remote: RemoteCodeStore) -> Path:
    return Path(remote.url.removeprefix("file://")) / "code" / "owner--model" / COMMIT


def test_code_comes_back_whole_or_not_at_all(remote: RemoteCodeStore) -> None:
    found = remote.read_code(MODEL, COMMIT)
    assert found is not None
    assert found.files == {"a.py": b"X = 1\n", "b.py": b""}
    assert remote.read_code(MODEL, COMMIT, "0" * 64) is None, "another one was fetched"
    assert remote.read_code(MODEL, "1" * 40) is None
    (place(remote) / "a.py").write_bytes(b"X = 2\n")
    with pytest.raises(DamagedRemoteError, match=r"a\.py has other content than its manifest says"):
        remote.read_code(MODEL, COMMIT)


def test_a_manifest_without_end_is_not_read(remote: RemoteCodeStore) -> None:
    (place(remote) / CODE_MANIFEST).write_bytes(b" " * (MAX_CODE_MANIFEST + 1))
    with pytest.raises(InfrastructureError, match="remove it"):
        remote.read_code(MODEL, COMMIT)


def test_old_code_is_listed_and_pruned_and_new_code_stays(remote: RemoteCodeStore) -> None:
    (entry,) = list_remote_entries(remote)
    assert (entry.kind, entry.model_id, entry.revision, entry.state) == ("code", MODEL, COMMIT, "complete")
    (kept,) = prune_remote_store(remote, PruneRequest(max_bytes=0))
    assert kept.in_use, "a run of the last day may read it"
    for file in place(remote).iterdir():
        os.utime(file, (time.time() - 40 * DAY,) * 2)
    (gone,) = prune_remote_store(remote, PruneRequest(max_age=30 * DAY))
    assert (gone.state, place(remote).exists()) == ("removed", False)
    assert list_remote_entries(remote) == ()


def test_what_is_no_code_of_a_model_is_no_part_of_the_store(remote: RemoteCodeStore) -> None:
    (place(remote).parent / "notes").mkdir()
    (place(remote).parent / "notes" / "a.py").write_text("")
    assert [entry.revision for entry in list_remote_entries(remote)] == [COMMIT]
