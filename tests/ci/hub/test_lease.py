"""Leases end with their process, and at the latest a while after their last beat."""

from __future__ import annotations

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
        deadline = time.monotonic() + 20
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
