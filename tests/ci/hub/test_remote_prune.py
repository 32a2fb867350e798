"""Pruning a remote store: by age and size, never what a run may read, never what is no checkpoint. At `file://`."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.hub.manifest import MANIFEST
from ci.hub.prune import PruneRequest
from ci.hub.remote_prune import list_remote_entries, prune_remote_store
from ci.hub.remote_store import RemoteStore
from tests.ci.hub.checkpoints import KEY, add

if TYPE_CHECKING:
    from ci.hub.store import Store

DAY = 24 * 3600.0
OTHER = replace(KEY, layers=3)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def remote(place: Path, store: Store) -> RemoteStore:
    """Two checkpoints of 50 kB: one of forty days ago, one of two days ago."""
    made = RemoteStore(f"file://{place}")
    for key, days in ((KEY, 40), (OTHER, 2)):
        add(store, key, size=50_000)
        stored = store.find(key)
        assert stored is not None
        made.upload(key, stored)
        age(place, key.name, days)
    return made


def age(place: Path, name: str, days: float) -> None:
    """Let the files of a checkpoint be of so many days ago."""
    moment = time.time() - days * DAY
    for path in (place / "checkpoints" / "owner--model" / name).iterdir():
        os.utime(path, (moment, moment))


def names(place: Path) -> set[str]:
    return {path.name for path in (place / "checkpoints" / "owner--model").iterdir()}


def test_what_is_too_old_goes_and_the_rest_says_why_it_stays(remote: RemoteStore, place: Path) -> None:
    old, new = prune_remote_store(remote, PruneRequest(max_age=30 * DAY))
    assert (old.state, old.layers, new.state, new.layers) == ("removed", 2, "complete", 3)
    assert old.reason == "not used for 40.0 d, more than 30.0 d"
    assert new.reason == "within the limits, used 2.0 d ago"
    assert names(place) == {OTHER.name}
    assert remote.find(KEY) is None
    assert remote.find(OTHER) is not None
    assert [path.name for path in place.iterdir()] == ["checkpoints"], "nothing else is left there"


def test_above_a_size_the_oldest_go_first(remote: RemoteStore, place: Path) -> None:
    states = {entry.layers: entry.state for entry in prune_remote_store(remote, PruneRequest(max_bytes=60_000))}
    assert states == {2: "removed", 3: "complete"}
    assert names(place) == {OTHER.name}


def test_what_a_run_of_the_last_day_fetched_stays(remote: RemoteStore, store: Store, place: Path) -> None:
    """A later hit of the fetch job writes the manifest again, which protects the checkpoint for a day."""
    stored = store.find(KEY)
    assert stored is not None
    remote.renew(KEY, stored)
    kept, gone = sorted(prune_remote_store(remote, PruneRequest(max_bytes=0)), key=lambda entry: entry.layers)
    assert (kept.state, kept.in_use, gone.state) == ("complete", True, "removed")
    assert kept.reason == "in use by a run that began less than a day ago, perhaps"
    assert remote.find(KEY) is not None


def test_a_dry_run_shows_it_and_changes_nothing(remote: RemoteStore, place: Path) -> None:
    before = sorted(path for path in place.rglob("*"))
    entries = prune_remote_store(remote, PruneRequest(max_bytes=0, dry_run=True))
    assert [entry.state for entry in entries] == ["removed", "removed"]
    assert sorted(place.rglob("*")) == before


def test_an_upload_that_did_not_end_goes_after_days(remote: RemoteStore, place: Path) -> None:
    folder = place / "checkpoints" / "owner--model" / KEY.name
    (folder / MANIFEST).unlink()
    age(place, KEY.name, 2)
    assert [entry.state for entry in prune_remote_store(remote, PruneRequest(max_age=90 * DAY))] == [
        "partial",
        "complete",
    ]
    age(place, KEY.name, 4)
    removed, _ = prune_remote_store(remote, PruneRequest(max_age=90 * DAY))
    assert (removed.state, removed.reason) == ("removed", "interrupted 4.0 d ago, more than 3.0 d")
    assert names(place) == {OTHER.name}


def test_what_is_no_checkpoint_is_left_alone(remote: RemoteStore, place: Path) -> None:
    foreign = [place / "notes.txt", place / "checkpoints" / "notes.txt", place / "checkpoints" / "owner--model" / "x"]
    foreign += [place / "checkpoints" / "owner--model" / "backup" / "model.safetensors"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    prune_remote_store(remote, PruneRequest(max_bytes=0))
    assert all(path.read_text() == "mine" for path in foreign)
    assert names(place) == {"x", "backup"}


def test_a_removal_that_was_interrupted_leaves_no_checkpoint(
    remote: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []

    def fail_at_the_second(path: str) -> None:
        removed.append(path)
        if len(removed) == 2:
            raise OSError("the network is away")
        Path(path).unlink()

    monkeypatch.setattr(remote._files, "rm_file", fail_at_the_second)
    entry = list_remote_entries(remote)[0]
    with pytest.raises(InfrastructureError, match="the network is away"):
        remote.remove(entry.path)
    assert removed[0].endswith(MANIFEST)
    assert remote.find(KEY) is None


def test_an_empty_place_and_a_grace_period(place: Path) -> None:
    empty = RemoteStore(f"file://{place}")
    assert prune_remote_store(empty, PruneRequest(max_bytes=0, dry_run=True)) == ()
    assert not place.exists()
    with pytest.raises(RequestError, match="--grace is for a directory"):
        prune_remote_store(empty, PruneRequest(max_bytes=0, grace=5.0))
