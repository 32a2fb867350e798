"""The entries of a store: listed, verified byte by byte, pruned without harm."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.hub.inventory import STALE_AFTER
from ci.hub.journal import JOURNAL
from ci.hub.store import Store
from ci.hub.store_paths import CheckpointKey, StorePaths
from tests.ci.hub.checkpoints import COMMIT, KEY, add, leave_parts

if TYPE_CHECKING:
    from pathlib import Path


def flip_bit(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"y" + b"x" * 4095)


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
