"""Files that two processes share: whole or as they were, and locks that die with their holder."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from hub_runner.files import acquire_lock, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.layout import Layout


def test_a_lock_is_free_again_when_its_holder_is_killed(layout: Layout) -> None:
    place = layout.run / "slot-0.lock"
    script = f"""
import time
from pathlib import Path
from hub_runner.files import acquire_lock
held = acquire_lock(Path({str(place)!r}), what="slot 0")
print("held", flush=True)
time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InfrastructureError, match=f"taken by pid {holder.pid}"):
            acquire_lock(place, what="slot 0")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    acquire_lock(place, what="slot 0").close()


def test_a_page_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "page"
    write_atomically(place, "before", 0o600)

    def broken(_: int) -> None:
        raise OSError(5, "I/O error")

    monkeypatch.setattr("hub_runner.files.os.fsync", broken)
    with pytest.raises(OSError, match="I/O error"):
        write_atomically(place, "after")
    assert place.read_text() == "before"
    assert list(tmp_path.iterdir()) == [place]


def test_shared_locks_go_together_and_an_exclusive_one_waits(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        acquire_lock(path, what="the store", shared=True),
        acquire_lock(path, what="the store", shared=True),
        pytest.raises(InfrastructureError, match="the store is taken by"),
    ):
        acquire_lock(path, what="the store")
    acquire_lock(path, what="the store").close()
