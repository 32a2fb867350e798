"""The store: whole or not there, shared without locks, pruned without harm."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub.journal import JOURNAL
from ci.hub.layers import LayerChoice
from ci.hub.manifest import MANIFEST, RULES_VERSION
from ci.hub.store import Store
from ci.hub.store_paths import FETCH_TIMEOUT, CheckpointKey
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
