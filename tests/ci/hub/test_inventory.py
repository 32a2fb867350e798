"""The entries of a store: listed, and verified byte by byte."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ci.hub.manifest import MANIFEST
from ci.hub.prune import PruneRequest
from ci.hub.store import Store
from ci.hub.store_paths import CheckpointKey
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
    path = add(store, CheckpointKey("gpt2", COMMIT, 12), size=100_000, used=50)
    leave_parts(store, replace(KEY, layers=3))
    complete, partial = store.list_entries()
    assert (complete.model_id, complete.revision, complete.layers, complete.state) == ("gpt2", COMMIT, 12, "complete")
    assert 100_000 <= complete.bytes <= 120_000
    assert complete.last_used == (path / MANIFEST).stat().st_mtime
    assert (partial.model_id, partial.revision, partial.layers, partial.state) == ("owner/model", COMMIT, 3, "partial")
    assert not complete.in_use
    assert not partial.in_use


def test_an_empty_store_is_empty(tmp_path: Path) -> None:
    store = Store(tmp_path / "never made")
    assert (store.list_entries(), store.verify(), store.prune(PruneRequest(max_bytes=0))) == ((), (), ())
    assert not store.root.exists(), "looking made something"
