"""The store: whole or not there, shared without locks, pruned without harm."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub import lease
from ci.hub.inventory import STALE_AFTER
from ci.hub.journal import JOURNAL
from ci.hub.layers import LayerChoice
from ci.hub.manifest import MANIFEST, RULES_VERSION, FileEntry, Manifest, encode_manifest
from ci.hub.store import Store
from ci.hub.store_paths import FETCH_TIMEOUT, CheckpointKey, StorePaths

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
KEY = CheckpointKey("owner/model", COMMIT, 2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.create_directories()
    return made


def write_checkpoint(directory: Path, key: CheckpointKey = KEY, size: int = 4096) -> None:
    content = b"x" * size
    (directory / "model.safetensors").write_bytes(content)

    files = {"model.safetensors": FileEntry(size, hashlib.sha256(content).hexdigest())}
    manifest = Manifest(
        1,
        key.model_id,
        key.commit,
        RULES_VERSION,
        key.layers,
        5,
        key.remote_code,
        size,
        sources={},
        tensors={},
        files=files,
    )
    (directory / MANIFEST).write_bytes(encode_manifest(manifest))


def add(store: Store, key: CheckpointKey = KEY, *, size: int = 4096, used: float | None = None) -> Path:
    """A complete checkpoint, last used `used` seconds ago and held by nobody."""
    partial = store.claim_partial(key)
    assert partial is not None
    write_checkpoint(partial.path, key, size)
    path = store.finish(key, partial)
    if used is not None:
        os.utime(path / MANIFEST, (0, time.time() - used))
    return path


def leave_parts(store: Store, key: CheckpointKey = KEY) -> Path:
    """What an interrupted fetch leaves behind."""
    partial = store.claim_partial(key)
    assert partial is not None
    (partial.path / JOURNAL).write_text("{}")
    store.abandon(partial, keep=True)
    return partial.path


def test_a_checkpoint_is_there_when_it_is_whole(store: Store) -> None:
    assert store.find(KEY) is None
    partial = store.claim_partial(KEY)
    assert partial is not None
    write_checkpoint(partial.path)
    assert store.find(KEY) is None, "a directory that is being filled looks complete"
    path = store.finish(KEY, partial)
    found = store.find(KEY)
    assert found is not None
    assert found.path == path == store.checkpoint_path(KEY)
    assert not partial.path.exists()
    assert path.is_relative_to(store.root / "checkpoints")


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, commit="f" * 40),
        replace(KEY, layers=3),
        replace(KEY, remote_code=True),
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
    for module in ("store", "store_paths"):
        monkeypatch.setattr(f"ci.hub.{module}.RULES_VERSION", RULES_VERSION + 1)
    assert store.find(KEY) is None


def damage_manifest(path: Path) -> None:
    (path / MANIFEST).write_text('{"schema": 1')


def damage_schema(path: Path) -> None:
    (path / MANIFEST).write_text((path / MANIFEST).read_text().replace('"schema": 1', '"schema": 2'))


def remove_manifest(path: Path) -> None:
    (path / MANIFEST).unlink()


def remove_file(path: Path) -> None:
    (path / "model.safetensors").unlink()


def shorten_file(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"x" * 4095)


def flip_bit(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"y" + b"x" * 4095)


@pytest.mark.parametrize("harm", [damage_manifest, damage_schema, remove_manifest, remove_file, shorten_file])
def test_a_damaged_checkpoint_is_not_there_and_is_replaced(store: Store, harm: object) -> None:
    path = add(store)
    assert callable(harm)
    harm(path)
    assert store.find(KEY) is None
    assert [entry.state for entry in store.list_entries()] == ["damaged"]
    assert add(store) == path
    assert store.find(KEY) is not None
    assert [entry.state for entry in store.list_entries()] == ["complete"]


def test_verify_reads_every_byte(store: Store) -> None:
    path, other = add(store), add(store, replace(KEY, layers=3))
    assert [entry.state for entry in store.verify()] == ["complete", "complete"]
    flip_bit(path)
    assert store.find(KEY) is not None, "sizes alone cannot tell"
    damaged, whole = store.verify()
    assert (damaged.path, damaged.state, whole.path, whole.state) == (str(path), "damaged", str(other), "complete")
    assert damaged.problems == ("model.safetensors has other content than when it was fetched",)


def test_entries_say_what_they_are(store: Store) -> None:
    add(store, CheckpointKey("gpt2", COMMIT, 12, remote_code=True), size=100_000, used=50)
    leave_parts(store, replace(KEY, layers=3))
    complete, partial = store.list_entries()
    assert (complete.model_id, complete.revision, complete.layers, complete.state) == ("gpt2", COMMIT, 12, "complete")
    assert 100_000 <= complete.bytes <= 120_000
    assert 40 < time.time() - complete.last_used < 60
    assert (partial.model_id, partial.revision, partial.layers, partial.state) == ("owner/model", COMMIT, 3, "partial")
    assert not complete.in_use
    assert not partial.in_use


def test_an_empty_store_is_empty(tmp_path: Path) -> None:
    store = Store(tmp_path / "never made")
    assert (store.list_entries(), store.verify(), store.prune(0)) == ((), (), ())
    assert not store.root.exists(), "looking made something"


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


def test_prune_takes_what_was_used_longest_ago(store: Store) -> None:
    keys = [replace(KEY, layers=n) for n in (1, 2, 3)]
    paths = [add(store, key, size=100_000, used=age) for key, age in zip(keys, (50, 99, 10), strict=True)]
    states = {entry.path: entry.state for entry in store.prune(250_000)}
    assert states == {str(paths[0]): "complete", str(paths[1]): "removed", str(paths[2]): "complete"}
    assert [path.exists() for path in paths] == [True, False, True]
    assert list((store.root / "trash").iterdir()) == []


def test_prune_without_a_cap_takes_only_what_nobody_comes_back_for(store: Store) -> None:
    kept, old = leave_parts(store), leave_parts(store, replace(KEY, layers=3))
    path = add(store, replace(KEY, layers=4), used=10 * STALE_AFTER)
    os.utime(old / JOURNAL, (0, time.time() - STALE_AFTER - 1))
    assert {entry.path: entry.state for entry in store.prune()} == {
        str(kept): "partial",
        str(old): "removed",
        str(path): "complete",
    }


def test_parts_go_before_checkpoints(store: Store) -> None:
    path = add(store, size=100_000, used=99)
    parts = leave_parts(store, replace(KEY, layers=3))
    store.prune(110_000)
    assert (path.exists(), parts.exists()) == (True, False)


def test_prune_never_touches_what_is_in_use(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StorePaths, "discard", lambda *_, **__: pytest.fail("it was out of its place for a moment"))
    path = add(store, used=99)
    store.mark_in_use(path)
    running = store.claim_partial(replace(KEY, layers=3))
    assert running is not None
    assert [(entry.state, entry.in_use) for entry in store.prune(0)] == [("partial", True), ("complete", True)]
    assert path.exists()
    assert running.path.exists()


def test_prune_gives_back_what_was_taken_hold_of_at_the_last_moment(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add(store)
    answers = iter([False, True])
    monkeypatch.setattr(StorePaths, "is_in_use", lambda *_: next(answers))
    assert [entry.state for entry in store.prune(0)] == ["complete"]
    assert store.find(KEY) is not None
    assert path.exists()


def test_a_dead_process_holds_nothing(store: Store) -> None:
    path = add(store)
    store.mark_in_use(path)
    (held,) = (store.root / "leases").iterdir()
    owner = json.loads(held.read_text())
    held.write_text(json.dumps({**owner, "pid": 2**22 + 1}))
    assert [entry.state for entry in store.prune(0)] == ["removed"]
    assert list((store.root / "leases").iterdir()) == [], "dead leases stay for ever"


def test_use_is_noted(store: Store) -> None:
    path = add(store, used=1000)
    store.mark_in_use(path)
    assert time.time() - (path / MANIFEST).stat().st_mtime < 100
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


def test_leases_of_a_fetch_are_of_that_fetch(store: Store) -> None:
    """Names of keys are prefixes of each other: `L1` and `L12` must not hold one another."""
    path = add(store, replace(KEY, layers=1))
    other = add(store, replace(KEY, layers=12))
    store.mark_in_use(other)
    assert {entry.path: entry.in_use for entry in store.list_entries()} == {str(path): False, str(other): True}
    assert lease.is_active(next((store.root / "leases").iterdir()), timeout=60)
