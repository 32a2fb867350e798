"""Interrupt requests whose status and headers do not arrive in time.

The HTTP client limits each read, so headers that drip would never end. All connections are closed under such a request;
the other requests are then tried again.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from huggingface_hub import close_session

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERVAL = 0.5
"""Seconds between two looks at the waiting requests."""
IDLE = 10
"""Looks without any request after which the thread ends."""


class HeaderWatch:
    """One thread that looks after all waiting requests, while there are any. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: dict[object, float] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Close the connections unless the block ends within `seconds`."""
        key = object()
        with self._lock:
            self._limits[key] = time.monotonic() + seconds
            if self._thread is None:
                self._closed.clear()
                self._thread = threading.Thread(target=self._watch, name="hub-watch", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._limits.pop(key, None)

    def close(self) -> None:
        """End the thread now; the next request starts another."""
        self._closed.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _watch(self) -> None:
        idle = 0
        while True:
            closed = self._closed.wait(INTERVAL)
            now = time.monotonic()
            with self._lock:
                late = [key for key, limit in self._limits.items() if limit < now]
                for key in late:
                    del self._limits[key]
                idle = 0 if self._limits or late else idle + 1
                if (closed and not self._limits) or idle >= IDLE:
                    self._thread = None
                    return
            if late:
                close_session()
            elif closed:
                time.sleep(INTERVAL)
