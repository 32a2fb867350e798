"""Lock files of environments: one process at a time, and a word for who waits."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ci.environments.build_lock import hold_lock, try_lock
from ci.errors import InfrastructureError

if TYPE_CHECKING:
    from pathlib import Path


def test_who_waits_is_told_and_goes_on_when_it_is_free(tmp_path: Path) -> None:
    told, entered = threading.Event(), threading.Event()

    def wait() -> None:
        with hold_lock(tmp_path / "lock", told.set):
            entered.set()

    waiting = threading.Thread(target=wait)
    with hold_lock(tmp_path / "lock"):
        waiting.start()
        assert told.wait(120)
        assert not entered.is_set()
    waiting.join(120)
    assert entered.is_set()


def test_a_lock_that_is_held_is_not_free(tmp_path: Path) -> None:
    with try_lock(tmp_path / "lock") as free:
        assert free
        with try_lock(tmp_path / "lock") as again:
            assert not again
    with try_lock(tmp_path / "lock") as free:
        assert free


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(InfrastructureError, match="cannot be changed: Is a directory"), try_lock(tmp_path / "lock"):
        pass
