"""Who filled the disk is measured: by what is free once the worker and its files are gone."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ci.subjects import disk_watch
from ci.subjects.disk_watch import RESERVED_BYTES, RESERVED_FILES, DiskWatch, SharedWatch, has_room

if TYPE_CHECKING:
    from pathlib import Path


def disk(free: int, names: int = 10**6, counted: int = 10**7) -> Any:
    return SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_favail=names, f_files=counted)


@pytest.mark.parametrize(
    ("state", "room"),
    [
        (disk(RESERVED_BYTES), True),
        (disk(RESERVED_BYTES - 4096), False),
        (disk(2**40, names=RESERVED_FILES), True),
        (disk(2**40, names=RESERVED_FILES - 1), False),
        (disk(2**40, names=0, counted=0), True),
    ],
)
def test_room_is_bytes_and_names(state: Any, room: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: state)
    assert has_room(tmp_path) is room


@pytest.mark.parametrize(("others", "finding"), [(False, "subject"), (True, "machine")])
def test_the_watch_finds_who_filled_it(
    others: bool, finding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, reclaimed = {"free": 2**40}, []

    def reclaim() -> None:
        reclaimed.append(threading.current_thread().name)
        state["free"] = 0 if others else 2**40

    monkeypatch.setattr(os, "statvfs", lambda _: disk(state["free"]))
    watch = DiskWatch((tmp_path,), reclaim)
    try:
        assert watch.find() == ""
        assert reclaimed == []
        state["free"] = 0
        deadline = time.monotonic() + 120
        while not reclaimed and time.monotonic() < deadline:
            time.sleep(0.01)
        assert watch.find() == finding
        assert reclaimed == ["disk watch"], "between calls, and once"
    finally:
        watch.stop()


def test_a_stopped_watch_looks_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reclaimed: list[int] = []
    watch = DiskWatch((tmp_path,), lambda: reclaimed.append(1))
    watch.stop()
    monkeypatch.setattr(os, "statvfs", lambda _: disk(0))
    time.sleep(3 * disk_watch.INTERVAL)
    assert reclaimed == []


@pytest.mark.parametrize(("others", "finding"), [(False, "subject"), (True, "machine")])
def test_of_two_workers_both_end_and_both_say_who_filled_the_disk(
    others: bool, finding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, ended = {"free": 2**40}, []

    def reclaim_filler() -> None:
        ended.append("filler")
        state["free"] = 0 if others else 2**40

    monkeypatch.setattr(os, "statvfs", lambda _: disk(state["free"]))
    shared, innocent, filler = SharedWatch(), object(), object()
    assert shared.find(innocent) == ""
    shared.join(innocent, (tmp_path,), lambda: ended.append("innocent"))
    shared.join(filler, (tmp_path,), reclaim_filler)
    state["free"] = 0
    assert shared.find(innocent) == shared.find(filler) == finding
    assert sorted(ended) == ["filler", "innocent"]
    shared.leave(filler)
    assert (shared.find(filler), shared.find(innocent)) == ("", finding)
    shared.leave(innocent)
    assert shared.find(innocent) == ""
    assert not [thread for thread in threading.enumerate() if thread.name == "disk watch"]
    state["free"] = 2**40
    shared.join(innocent, (tmp_path,), lambda: ended.append("again"))
    assert shared.find(innocent) == "", "a new watch has found nothing yet"
    shared.leave(innocent)
