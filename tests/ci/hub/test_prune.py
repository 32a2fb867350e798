"""Pruning: by size or age, with reasons, and never what somebody uses."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import HubTestsError, InfrastructureError
from ci.hub import lease
from ci.hub.journal import JOURNAL
from ci.hub.manifest import MANIFEST
from ci.hub.prune import STALE_AFTER, PruneRequest
from ci.hub.store_paths import CODE_MANIFEST, StorePaths
from tests.ci.hub.checkpoints import KEY, add, leave_parts
from tests.ci.hub.test_code_manifest import COMMIT, store_code

if TYPE_CHECKING:
    from ci.hub.store import Store


def test_prune_takes_what_was_used_longest_ago(store: Store) -> None:
    keys = [replace(KEY, layers=n) for n in (1, 2, 3)]
    paths = [add(store, key, size=100_000, used=age) for key, age in zip(keys, (50, 99, 10), strict=True)]
    states = {entry.path: entry.state for entry in store.prune(PruneRequest(max_bytes=250_000))}
    assert states == {str(paths[0]): "complete", str(paths[1]): "removed", str(paths[2]): "complete"}
    assert [path.exists() for path in paths] == [True, False, True]
    assert list((store.root / "trash").iterdir()) == []


def test_prune_without_a_cap_takes_only_what_nobody_comes_back_for(store: Store) -> None:
    kept, old = leave_parts(store), leave_parts(store, replace(KEY, layers=3))
    path = add(store, replace(KEY, layers=4), used=10 * STALE_AFTER)
    os.utime(old / JOURNAL, (0, time.time() - STALE_AFTER - 1))
    assert {entry.path: entry.state for entry in store.prune(PruneRequest())} == {
        str(kept): "partial",
        str(old): "removed",
        str(path): "complete",
    }


def test_parts_go_before_checkpoints(store: Store) -> None:
    path = add(store, size=100_000, used=99)
    parts = leave_parts(store, replace(KEY, layers=3))
    store.prune(PruneRequest(max_bytes=110_000))
    assert (path.exists(), parts.exists()) == (True, False)


def test_prune_never_touches_what_is_in_use(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StorePaths, "discard", lambda *_, **__: pytest.fail("it was out of its place for a moment"))
    path = add(store, used=99)
    store.mark_in_use(path)
    running = store.claim_partial(replace(KEY, layers=3))
    assert running is not None
    assert [(entry.state, entry.in_use) for entry in store.prune(PruneRequest(max_bytes=0))] == [
        ("partial", True),
        ("complete", True),
    ]
    assert path.exists()
    assert running.path.exists()


def test_prune_gives_back_what_was_taken_hold_of_at_the_last_moment(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add(store)
    answers = iter([None, "process 1 on another"])
    monkeypatch.setattr(StorePaths, "find_holder", lambda *_: next(answers))
    assert [entry.state for entry in store.prune(PruneRequest(max_bytes=0))] == ["complete"]
    assert store.find(KEY) is not None
    assert path.exists()


def test_a_dead_process_holds_nothing(store: Store) -> None:
    path = add(store)
    store.mark_in_use(path)
    (held,) = (store.root / "leases").iterdir()
    owner = json.loads(held.read_text())
    held.write_text(json.dumps({**owner, "pid": 2**22 + 1}))
    assert [entry.state for entry in store.prune(PruneRequest(max_bytes=0))] == ["removed"]
    assert list((store.root / "leases").iterdir()) == [], "dead leases stay for ever"


def set_clock(monkeypatch: pytest.MonkeyPatch, moment: float) -> None:
    """Stop the file server's clock, so that ages are numbers that a test can name."""
    monkeypatch.setattr(lease, "read_clock", lambda _: moment)


def test_prune_by_age(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = add(store, used=7200), add(store, replace(KEY, layers=3), used=60)
    set_clock(monkeypatch, (new / MANIFEST).stat().st_mtime + 60)
    entries = {entry.path: entry for entry in store.prune(PruneRequest(max_age=3600))}
    assert (entries[str(old)].state, entries[str(new)].state) == ("removed", "complete")
    assert entries[str(old)].reason == "not used for 2.0 h, more than 60 min"
    assert entries[str(new)].reason == "within the limits, used 60 s ago"


def test_each_entry_says_why_it_stays(store: Store) -> None:
    path = add(store)
    store.mark_in_use(path)
    add(store, replace(KEY, layers=3))
    reasons = [entry.reason for entry in store.prune(PruneRequest(max_bytes=10**12))]
    assert any(reason.startswith(f"in use by process {os.getpid()} on ") for reason in reasons)
    assert any(reason.startswith("within the limits") for reason in reasons)


def test_a_grace_period_announces_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = add(store, used=7200)
    request = PruneRequest(max_bytes=0, grace=3600)
    (entry,) = store.prune(replace(request, dry_run=True))
    assert (entry.state, (store.root / "leaving").exists()) == ("leaving", False)
    (entry,) = store.prune(request)
    assert (entry.state, entry.reason.endswith("; may go in 60 min unless it is used")) == ("leaving", True)
    (announcement,) = (store.root / "leaving").iterdir()
    now = announcement.stat().st_mtime
    set_clock(monkeypatch, now + 1200)
    (entry,) = store.prune(request)
    assert (entry.state, entry.reason.endswith("; announced, may go in 40 min unless it is used")) == ("leaving", True)
    set_clock(monkeypatch, now)
    os.utime(announcement, (0, now - 3700))
    os.utime(path / "hub-tests.json", (0, now - 10))
    (entry,) = store.prune(request)
    assert entry.state == "leaving", "somebody used it since the announcement"
    os.utime(announcement, (0, now - 3700))
    os.utime(path / "hub-tests.json", (0, now - 7200))
    (entry,) = store.prune(request)
    assert entry.state == "removed"
    assert entry.reason.endswith("announced 62 min ago, not used since")
    assert list((store.root / "leaving").iterdir()) == []


def test_an_announcement_is_withdrawn_when_the_limits_allow_it(store: Store) -> None:
    add(store, used=7200)
    store.prune(PruneRequest(max_bytes=0, grace=3600))
    store.prune(PruneRequest(max_bytes=10**9, grace=3600))
    assert list((store.root / "leaving").iterdir()) == []


def test_what_is_leaving_counts_as_gone(store: Store) -> None:
    """Otherwise a store above its size would announce everything."""
    add(store, size=100_000, used=99)
    add(store, replace(KEY, layers=3), size=100_000, used=50)
    states = [entry.state for entry in store.prune(PruneRequest(max_bytes=150_000, grace=3600))]
    assert states == ["leaving", "complete"]


def test_the_stores_own_grace_period_counts(store: Store) -> None:
    add(store, used=7200)
    (store.root / "store.json").write_text('{"grace": "24h"}')
    (entry,) = store.prune(PruneRequest(max_bytes=0))
    assert entry.state == "leaving"
    for wrong in ('{"grace": "soon"}', '{"graze": "24h"}', "{"):
        (store.root / "store.json").write_text(wrong)
        with pytest.raises(HubTestsError):
            store.prune(PruneRequest(max_bytes=0))


def test_only_one_process_prunes(store: Store) -> None:
    add(store, used=7200)
    other = lease.acquire(store.root / "leases", "prune")
    with pytest.raises(InfrastructureError, match=r"process \d+ on .* prunes this store now; try again"):
        store.prune(PruneRequest(max_bytes=0))
    other.release()
    assert [entry.state for entry in store.prune(PruneRequest(max_bytes=0))] == ["removed"]


@pytest.mark.parametrize("years", [-3, 3])
def test_this_machines_clock_does_not_matter(store: Store, years: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path, used = add(store, used=7200), add(store, replace(KEY, layers=3), used=7200)
    parts = leave_parts(store, replace(KEY, layers=4))
    store.mark_in_use(used)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + years * 365 * 86400)
    states = {entry.path: entry.state for entry in store.prune(PruneRequest(max_age=3600))}
    assert states == {str(path): "removed", str(used): "complete", str(parts): "partial"}


def test_a_pruner_that_was_killed_leaves_nothing_for_ever(store: Store) -> None:
    path = add(store, used=99)
    (store.root / "leaving").mkdir()
    (store.root / "leaving" / "gone--model@x.json").touch()
    path.rename(store.root / "trash" / "half")
    store.prune(PruneRequest(max_bytes=0))
    assert [list((store.root / name).iterdir()) for name in ("trash", "leaving", "leases")] == [[], [], []]


def test_code_that_models_bring_goes_like_a_checkpoint(store: Store) -> None:
    """By size and by age, with its leases, its announcements, and what a killed fetch left."""
    path = store_code(store.root, a="X = 1\n")
    manifest = path / CODE_MANIFEST
    left = path.parent / f".{COMMIT}.abcd"
    left.mkdir()
    checkpoint = add(store, used=10)
    (code,) = [entry for entry in store.list_entries() if entry.kind == "code"]
    assert (code.model_id, code.revision, code.state) == ("owner/model", COMMIT, "complete")
    used = time.time() - 99
    os.utime(manifest, (used,) * 2)
    os.utime(left, (time.time() - STALE_AFTER - 9,) * 2)
    store.mark_in_use(path)
    assert manifest.stat().st_mtime >= used + 90, "a use is recorded"
    assert [entry.state for entry in store.prune(PruneRequest(max_age=0.0)) if entry.kind == "code"] == ["complete"]
    assert (path.exists(), left.exists(), checkpoint.exists()) == (True, False, False)
    lease.release_all()
    os.utime(manifest, (time.time() - 99,) * 2)
    assert [entry.state for entry in store.prune(PruneRequest(max_age=50.0, grace=9.0))] == ["leaving"]
    assert (store.root / "leaving" / f"owner--model@{COMMIT}.json").exists(), "an announcement stays with its code"
    assert [entry.state for entry in store.prune(PruneRequest(max_age=50.0))] == ["removed"]
    assert not path.exists()


def test_damaged_code_is_named_and_pruned_first(store: Store) -> None:
    path = store_code(store.root, a="X = 1\n")
    (path / "a.py").write_text("X = 2\n")
    (entry,) = store.verify()
    assert (entry.state, entry.problems) == ("damaged", ("a.py has other content than the manifest says",))
