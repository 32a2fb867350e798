"""The store: whole or not there, shared without locks, pruned without harm."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub.journal import JOURNAL
from ci.hub.layers import LayerChoice
from ci.hub.lease import RUN_TIMEOUT
from ci.hub.manifest import MANIFEST, RULES_VERSION, IncompatibleManifestError
from ci.hub.prune import PruneRequest
from ci.hub.store import Store
from ci.hub.store_paths import FETCH_TIMEOUT, CheckpointKey, StorePaths
from tests.ci.hub.checkpoints import COMMIT, KEY, add, leave_parts, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def test_a_checkpoint_is_there_when_it_is_whole(store: Store) -> None:
    assert store.find(KEY) is None
    partial = store.claim_partial(KEY)
    assert partial is not None
    write_checkpoint(partial.path)
    assert store.find(KEY) is None, "a directory that is being filled looks complete"
    path = store.finish(KEY, partial)
    stored = store.find(KEY)
    assert stored is not None
    assert stored.path == path == store.checkpoint_path(KEY)
    assert not partial.path.exists()
    assert path.is_relative_to(store.root / "checkpoints")


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, commit="f" * 40),
        replace(KEY, layers=3),
        replace(KEY, picked=(0, 3)),
        replace(KEY, model_id="owner/other"),
    ],
)
def test_every_part_of_the_key_counts(store: Store, other: CheckpointKey) -> None:
    path = add(store)
    assert store.find(other) is None
    shutil.copytree(path, store.checkpoint_path(other))
    assert store.find(other) is None, "a copy under another name is still what its manifest says"


def test_another_rule_version_is_another_checkpoint(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store)
    monkeypatch.setattr("ci.hub.store_paths.RULES_VERSION", RULES_VERSION + 1)
    assert store.find(KEY) is None


def damage_manifest(path: Path) -> None:
    (path / MANIFEST).write_text('{"schema": 1')


def plant_file(path: Path) -> None:
    (path / "pytorch_model.bin").write_bytes(bytes(4096))


def plant_directory(path: Path) -> None:
    (path / "original").mkdir()


def plant_link(path: Path) -> None:
    (path / "model.safetensors").rename(path.parent / "elsewhere")
    (path / "model.safetensors").symlink_to(path.parent / "elsewhere")


def plant_pipe(path: Path) -> None:
    os.mkfifo(path / "pipe")


PLANTS = (plant_file, plant_directory, plant_link, plant_pipe)


def remove_manifest(path: Path) -> None:
    (path / MANIFEST).unlink()


def remove_file(path: Path) -> None:
    (path / "model.safetensors").unlink()


def shorten_file(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"x" * 4095)


@pytest.mark.parametrize("harm", [damage_manifest, remove_manifest, remove_file, shorten_file, *PLANTS])
def test_a_damaged_checkpoint_is_not_there_and_is_replaced(store: Store, harm: object) -> None:
    path = add(store)
    assert callable(harm)
    harm(path)
    assert store.find(KEY) is None
    assert [entry.state for entry in store.list_entries()] == ["damaged"]
    assert add(store) == path
    assert store.find(KEY) is not None
    assert [entry.state for entry in store.list_entries()] == ["complete"]


def test_parts_are_found_again(store: Store) -> None:
    left = leave_parts(store)
    leave_parts(store, replace(KEY, layers=3))
    partial = store.claim_partial(KEY)
    assert partial is not None
    assert (partial.path / JOURNAL).read_text() == "{}"
    assert not left.exists(), "the parts now belong to this fetch alone"


def test_parts_that_are_not_worth_keeping_go(store: Store) -> None:
    partial = store.claim_partial(KEY)
    assert partial is not None
    store.abandon(partial, keep=False)
    assert store.list_entries() == ()
    assert [path.name for path in (store.root / "leases").iterdir()] == []


def test_a_checkpoint_of_a_newer_version_is_refused_and_stays(store: Store) -> None:
    path = add(store)
    newer = (path / MANIFEST).read_text().replace('"schema": 1', '"schema": 2').replace('"commit"', '"revision"')
    (path / MANIFEST).write_text(newer)
    with pytest.raises(IncompatibleManifestError, match=r"schema 2, this version of hub-tests reads 1\); update"):
        store.find(KEY)
    assert [entry.state for entry in store.list_entries()] == ["incompatible"]
    assert [entry.state for entry in store.verify()] == ["incompatible"]


def test_a_checkpoint_with_keys_of_a_newer_version_is_used(store: Store) -> None:
    path = add(store)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["slices"] = {"vocab": 8192}
    manifest["files"]["model.safetensors"]["blake3"] = "0" * 64
    manifest["tensors"]["x"]["rows"] = 3
    (path / MANIFEST).write_text(json.dumps(manifest))
    assert store.find_verified(KEY) is not None
    assert [entry.state for entry in store.verify()] == ["complete"]


def test_a_hit_with_other_bytes_is_set_aside(store: Store) -> None:
    path = add(store)
    (path / "model.safetensors").write_bytes(b"y" + b"x" * 4095)
    assert store.find(KEY) is not None, "sizes alone cannot tell"
    assert store.find_verified(KEY) is None
    assert [entry.state for entry in store.list_entries()] == ["quarantined"]
    assert add(store) == path
    assert store.find_verified(KEY) is not None


def test_a_damaged_hit_that_cannot_be_set_aside_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = add(store)
    (path / "model.safetensors").write_bytes(b"y" + b"x" * 4095)
    monkeypatch.setattr(StorePaths, "set_aside", lambda *_: None)
    with pytest.raises(InfrastructureError, match=r"damaged: model\.safetensors has .* cache repair"):
        store.find_verified(KEY)


def test_files_are_not_writable_for_others(store: Store) -> None:
    partial = store.claim_partial(KEY)
    assert partial is not None
    write_checkpoint(partial.path)
    (partial.path / "model.safetensors").chmod(0o666)
    path = store.finish(KEY, partial)
    assert (path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_reader_that_cannot_keep_what_is_leaving_refuses_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only mount, which root cannot simulate by permissions."""
    path = add(store, used=1000)
    (entry,) = store.prune(PruneRequest(max_bytes=0, grace=3600))
    assert entry.state == "leaving"
    with monkeypatch.context() as read_only:
        read_only.setattr("ci.hub.lease.hold", raise_read_only)
        with pytest.raises(InfrastructureError, match="about to be pruned, and this machine cannot write"):
            store.find_verified(KEY)
    assert store.find_verified(KEY) is not None
    assert list((store.root / "leaving").iterdir()) == [], "use withdraws the announcement"
    with monkeypatch.context() as read_only:
        read_only.setattr("ci.hub.lease.hold", raise_read_only)
        assert store.find_verified(KEY) is not None
    assert path.exists()


def raise_read_only(*_: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def test_a_run_holds_until_it_has_had_its_time(store: Store) -> None:
    path = add(store, used=1000)
    store.hold_for_run(path, "4711")
    store.hold_for_run(path, "4711")
    (entry,) = store.prune(PruneRequest(max_bytes=0))
    assert (entry.state, entry.reason) == ("complete", "in use by run 4711")
    (held,) = (store.root / "leases").iterdir()
    os.utime(held, (0, time.time() - RUN_TIMEOUT - 60))
    assert [entry.state for entry in store.prune(PruneRequest(max_bytes=0))] == ["removed"]
    assert list((store.root / "leases").iterdir()) == []


@pytest.mark.usefixtures("no_heartbeat")
def test_a_live_fetch_is_waited_for_and_a_silent_one_is_not(store: Store) -> None:
    first = store.claim_partial(KEY)
    assert first is not None
    assert store.claim_partial(KEY) is None
    os.utime(first.lease.path, (0, time.time() - FETCH_TIMEOUT - 1))
    second = store.claim_partial(KEY)
    assert second is not None
    assert not first.path.exists()


def test_two_that_finish_the_same_both_end_right(store: Store) -> None:
    first = store.claim_partial(KEY)
    assert first is not None
    os.utime(first.lease.path, (0, 0))
    (store.root / "partial" / "elsewhere").mkdir()
    second = replace(first, path=store.root / "partial" / "elsewhere")
    for partial in (first, second):
        write_checkpoint(partial.path)
        assert store.finish(KEY, partial) == store.checkpoint_path(KEY)
    assert store.find(KEY) is not None
    assert len(store.list_entries()) == 1


def test_use_is_noted(store: Store) -> None:
    path = add(store, used=1000)
    before = (path / MANIFEST).stat().st_mtime
    store.mark_in_use(path)
    assert (path / MANIFEST).stat().st_mtime >= before + 990
    for _ in range(3):
        store.mark_in_use(path)
    assert len(store.list_entries()) == 1


def test_notes_of_refs_and_auto(store: Store) -> None:
    assert (store.find_commit("o/m", None), store.find_layer_choice("o/m", COMMIT)) == (None, None)
    store.save_commit("o/m", None, COMMIT)
    store.save_commit("o/m", "feature/../x", "f" * 40)
    store.save_layer_choice("o/m", COMMIT, LayerChoice(4, ("layer 3: moe",)))
    assert store.find_commit("o/m", None) == COMMIT
    assert store.find_commit("o/m", "feature/../x") == "f" * 40
    assert store.find_commit("o/m", "main") is None
    assert store.find_layer_choice("o/m", COMMIT) == LayerChoice(4, ("layer 3: moe",))
    assert {path.parts[len(store.root.parts)] for path in store.root.rglob("*")} >= {"refs", "auto"}


@pytest.mark.parametrize("text", ["", "{", '{"commit": 3}', "[]"])
def test_a_torn_note_is_no_note(store: Store, text: str) -> None:
    store.save_commit("o/m", None, COMMIT)
    (path,) = (store.root / "refs").rglob("*.json")
    path.write_text(text)
    assert store.find_commit("o/m", None) is None


def test_no_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.check_free_space(1000)
    with pytest.raises(InfrastructureError, match="free on this disk; free some, or prune the store"):
        store.check_free_space(2**60)


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError, match=r"cannot be written: .*; choose another store with HUB_TESTS_CACHE"):
        Store(tmp_path / "file" / "store").create_directories()


def test_the_store_is_marked_as_a_cache(store: Store) -> None:
    assert (store.root / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
