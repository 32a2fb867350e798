"""The watch over requests without an answer."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ci.hub import header_watch
from ci.hub.header_watch import HeaderWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Connections:
    """How often all connections were closed, by a clock that stands still until a test sets it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.closed = 0

    def close(self) -> None:
        self.closed += 1

    def wait_until_closed(self, times: int) -> None:
        deadline = time.monotonic() + 120
        while self.closed < times and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(5 * header_watch.INTERVAL)
        assert self.closed == times


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Connections:
    made = Connections()
    monkeypatch.setattr(header_watch, "close_session", made.close)
    monkeypatch.setattr(header_watch, "INTERVAL", 0.02)
    monkeypatch.setattr(header_watch, "time", SimpleNamespace(monotonic=lambda: made.now, sleep=time.sleep))
    return made


@pytest.fixture
def watch(connections: Connections) -> Iterator[HeaderWatch]:
    made = HeaderWatch()
    yield made
    made.close()


@pytest.fixture
def is_watching(connections: Connections) -> Callable[[], bool]:
    """Whether a thread watches; those of other tests may not have ended yet."""
    before = set(threading.enumerate())
    return lambda: "hub-watch" in {thread.name for thread in set(threading.enumerate()) - before}


def test_a_late_answer_closes_the_connections_once(watch: HeaderWatch, connections: Connections) -> None:
    with watch.limit(30), watch.limit(60):
        connections.now = 30.0
        connections.wait_until_closed(0)
        connections.now = 31.0
        connections.wait_until_closed(1)


def test_answers_in_time_close_nothing_and_the_thread_ends(
    watch: HeaderWatch, connections: Connections, is_watching: Callable[[], bool]
) -> None:
    for _ in range(20):
        with watch.limit(30):
            pass
        connections.now += 31
    deadline = time.monotonic() + 120
    while is_watching() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_watching()
    assert connections.closed == 0
    with watch.limit(30):
        connections.now += 31
        connections.wait_until_closed(1)  # else it does not start again


def test_closing_ends_the_thread_and_a_later_request_is_watched_again(
    watch: HeaderWatch, connections: Connections, is_watching: Callable[[], bool]
) -> None:
    with watch.limit(60):
        assert is_watching()
    watch.close()
    assert not is_watching()
    with watch.limit(30):
        connections.now += 31
        connections.wait_until_closed(1)
