"""Leases end with their process, and at the latest a while after their last beat."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ci.hub import lease

if TYPE_CHECKING:
    from pathlib import Path


def test_holds_while_its_process_lives(tmp_path: Path) -> None:
    taken = lease.acquire(tmp_path, "x")
    assert lease.is_active(taken.path, timeout=60)
    taken.release()
    assert not lease.is_active(taken.path, timeout=60)
    taken.release()


def test_ends_with_its_process(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from ci.hub import lease; lease.acquire(Path({str(tmp_path)!r}), 'x'); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        deadline = time.monotonic() + 120
        while not (leases := list(tmp_path.glob("x.*.lease"))) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)
        assert lease.is_active(leases[0], timeout=60)
        child.kill()
        child.wait()
    assert not lease.is_active(leases[0], timeout=60)


def test_a_number_used_again_is_another_process(tmp_path: Path) -> None:
    taken = lease.acquire(tmp_path, "x")
    owner = json.loads(taken.path.read_text())
    taken.path.write_text(json.dumps({**owner, "started": owner["started"] - 1}))
    assert not lease.is_active(taken.path, timeout=60)


def test_the_lock_tells_a_dead_process_in_another_container(tmp_path: Path) -> None:
    """Its number means nothing here, and its last beat is a moment ago; after three beats the lock decides."""
    taken = lease.acquire(tmp_path, "x")
    owner = json.loads(taken.path.read_text())
    assert (owner["locked"], owner["beats"]) == (True, True)
    path = tmp_path / "x.other.lease"
    path.write_text(json.dumps({**owner, "place": "container b 4026531836", "pid": 2**22 + 1}))
    assert lease.is_active(path, timeout=600)
    os.utime(path, (0, time.time() - 3 * lease.HEARTBEAT - 1))
    assert not lease.is_active(path, timeout=600)


def test_a_file_system_that_only_pretends_to_lock_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    taken = lease.acquire(tmp_path, "x")
    assert not json.loads(taken.path.read_text())["locked"]
    assert lease.is_active(taken.path, timeout=60)


def test_without_locks_the_process_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", raise_no_locks)
    taken = lease.acquire(tmp_path, "x")
    assert lease.is_active(taken.path, timeout=60)
    owner = json.loads(taken.path.read_text())
    taken.path.write_text(json.dumps({**owner, "pid": 2**22 + 1}))
    assert not lease.is_active(taken.path, timeout=60)


def raise_no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.usefixtures("no_heartbeat")
def test_a_process_on_another_machine_ends_seconds_after_its_last_beat(tmp_path: Path) -> None:
    taken = lease.acquire(tmp_path, "x")
    owner = json.loads(taken.path.read_text())
    taken.path.write_text(json.dumps({**owner, "place": "another", "kernel": "another boot"}))
    beat = taken.path.stat().st_mtime
    assert lease.is_active(taken.path, timeout=600, silence=30, now=beat + 29)
    assert not lease.is_active(taken.path, timeout=600, silence=30, now=beat + 31)
    os.utime(taken.path, (0, time.time() - 35))
    assert not lease.is_active(taken.path, timeout=600, silence=30), "by the server's clock"


def test_a_lease_of_an_older_version_has_no_beat_to_miss(tmp_path: Path) -> None:
    path = tmp_path / "x.1.lease"
    path.write_text('{"place": "another host", "pid": 7, "started": 1}')
    os.utime(path, (0, time.time() - 300))
    assert lease.is_active(path, timeout=600, silence=30)


def test_leases_are_renewed_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lease, "_held", lease._HeldLeases())
    taken = lease.acquire(tmp_path, "x")
    os.utime(taken.path, (0, 1000))
    deadline = time.monotonic() + 120
    while taken.path.stat().st_mtime == 1000 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert taken.path.stat().st_mtime > 1000
    lease.release_all()
    assert list(tmp_path.iterdir()) == []


def test_a_process_holds_a_name_once(tmp_path: Path) -> None:
    first = lease.hold(tmp_path, "x")
    assert lease.hold(tmp_path, "x") == first
    assert lease.hold(tmp_path, "x.y") != first
    first.path.unlink()
    assert lease.hold(tmp_path, "x") != first


def test_a_process_that_ends_leaves_no_lease(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from ci.hub import lease; lease.acquire(Path({str(tmp_path)!r}), 'x')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_ends_without_its_parents_leases(tmp_path: Path) -> None:
    code = (
        f"import os; from pathlib import Path; from ci.hub import lease; lease.acquire(Path({str(tmp_path)!r}), 'x')\n"
        f"if os.fork(): os.wait(); print(len(os.listdir({str(tmp_path)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize("years", [-3, 3])
@pytest.mark.usefixtures("no_heartbeat")
def test_clocks_do_not_matter(tmp_path: Path, years: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this machine's, nor what the file server's own clock shows."""
    taken = lease.acquire(tmp_path, "x")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + years * 365 * 86400)
    assert lease.is_active(taken.path, timeout=60)
    assert now - 1 < lease.read_clock(tmp_path) <= time.clock_gettime(time.CLOCK_REALTIME)
    server = now + years * 365 * 86400
    os.utime(taken.path, (0, server))
    assert lease.is_active(taken.path, timeout=60, now=server + 30)
    assert not lease.is_active(taken.path, timeout=60, now=server + 90)
    assert not lease.is_active(taken.path, timeout=60, now=server - 90), "a clock was set back"


def test_where_nothing_can_be_written_the_newest_file_is_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, moment in (("a", 1000), ("b", 2000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, moment))
    monkeypatch.setattr(os, "open", raise_no_locks)
    assert lease.read_clock(tmp_path) == 2000


def test_drafts_of_the_dead_are_removed_in_time(tmp_path: Path) -> None:
    for name in (".a.draft", ".b.clock"):
        (tmp_path / name).touch()
    lease.remove_expired(tmp_path, "*", timeout=60)
    assert len(list(tmp_path.iterdir())) == 2
    for path in tmp_path.iterdir():
        os.utime(path, (0, time.time() - lease.DRAFT_TIMEOUT - 1))
    lease.remove_expired(tmp_path, "*", timeout=60)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_heartbeat")
def test_a_process_elsewhere_is_believed_until_it_falls_silent(tmp_path: Path) -> None:
    taken = lease.acquire(tmp_path, "x")
    owner = json.loads(taken.path.read_text())
    taken.path.write_text(json.dumps({**owner, "place": "another host", "pid": 2**22 + 1}))
    assert lease.is_active(taken.path, timeout=60)
    os.utime(taken.path, (0, time.time() - 61))
    assert not lease.is_active(taken.path, timeout=60)
    taken.renew()
    assert lease.is_active(taken.path, timeout=60)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"place": "a", "pid": 1}'])
def test_a_file_that_is_no_lease_holds_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.1.lease"
    path.write_text(text)
    assert not lease.is_active(path, timeout=60)


def test_the_dead_are_dropped_by_pattern(tmp_path: Path) -> None:
    alive = lease.acquire(tmp_path, "x")
    for name in ("x.dead.lease", "y.dead.lease"):
        (tmp_path / name).touch()
    lease.remove_expired(tmp_path, "x.*", timeout=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.path.name, "y.dead.lease"])
