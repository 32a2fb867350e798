"""The watch over requests without an answer."""

from __future__ import annotations

import threading
import time

import pytest

from ci.hub import header_watch
from ci.hub.header_watch import HeaderWatch


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times at which all connections were closed."""
    times: list[float] = []
    monkeypatch.setattr(header_watch, "close_session", lambda: times.append(time.monotonic()))
    monkeypatch.setattr(header_watch, "INTERVAL", 0.02)
    return times


def test_a_late_answer_closes_the_connections_once(closed: list[float]) -> None:
    watch, started = HeaderWatch(), time.monotonic()
    with watch.limit(0.1), watch.limit(60):
        time.sleep(0.5)
    (at,) = closed
    assert at - started >= 0.1


def test_answers_in_time_close_nothing_and_the_thread_ends(closed: list[float]) -> None:
    watch = HeaderWatch()
    for _ in range(20):
        with watch.limit(0.5):
            pass
    time.sleep(1.0)
    assert closed == []
    assert not [thread for thread in threading.enumerate() if thread.name == "hub-watch"]
    with watch.limit(0.1):
        time.sleep(0.5)
    assert len(closed) == 1, "it does not start again"


def test_closing_ends_the_thread_and_a_later_request_is_watched_again(closed: list[float]) -> None:
    watch = HeaderWatch()
    with watch.limit(60):
        pass
    watch.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "hub-watch"]
    with watch.limit(0.1):
        time.sleep(0.5)
    assert len(closed) == 1
