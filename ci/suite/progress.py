"""What the suite does now, from its process to the one that shows it: a file with one JSON line an event.

The suite, and each of its pytest-xdist workers, append to the file; `hub-tests run` reads it a few times a second. Its
lines are shown and decide nothing: one that cannot be read is left out.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from ci.errors import HubTestsError
from ci.records import STRICT, read_json, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.phases import Key

POLL_SECONDS = 0.05
"""Seconds between two looks at the file. The suite waits twice as long at its end, until the live line is gone."""
MAX_READ_BYTES = 2**20
"""Bytes that are read at once: more than a suite writes in between, and a limit for whatever else is there."""
MAX_LINE_BYTES = 2**12


@dataclass(frozen=True)
class ProgressEvent:
    """A test that begins, enters a phase or ends with its outcome and seconds; `finished` is the end of the suite."""

    __pydantic_config__: ClassVar[Any] = STRICT

    event: Literal["started", "phase", "ended", "finished"]
    test: str = ""
    phase: str = ""
    outcome: Literal["", "passed", "failed", "skipped"] = ""
    seconds: float = 0.0


class ProgressDisplay(Protocol):
    """Shows events to people."""

    def show(self, event: ProgressEvent) -> None:
        """Show one event."""
        ...

    def tick(self) -> None:
        """Show how much time has passed."""
        ...


@dataclass
class ProgressWriter:
    """Appends events to the file, each with one call of the system, so that lines of several processes stay whole."""

    path: Path

    def write(self, event: ProgressEvent) -> None:
        """Append one event."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, to_json(event).encode()[: MAX_LINE_BYTES - 1] + b"\n")
        finally:
            os.close(descriptor)

    def make_listener(self, test: str) -> Callable[[Key | None], None]:
        """Return a listener for the clock of the phases, for as long as `test` runs."""

        def hear(key: Key | None) -> None:
            self.write(ProgressEvent("phase", test, ", ".join(filter(None, key or ()))))

        return hear


@dataclass
class ProgressReader:
    """Reads the events that were appended since it last looked."""

    path: Path
    _offset: int = 0
    _rest: bytes = field(default=b"", repr=False)

    def read_new(self) -> list[ProgressEvent]:
        """Return the new events; lines that are none are left out."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                read = file.read(MAX_READ_BYTES)
        except OSError:
            return []
        self._offset += len(read)
        *lines, self._rest = (self._rest + read).split(b"\n")
        self._rest = self._rest[:MAX_LINE_BYTES]
        return [event for line in lines if (event := _parse_event(line))]


def _parse_event(line: bytes) -> ProgressEvent | None:
    try:
        return read_json(ProgressEvent, line, what="progress") if len(line) < MAX_LINE_BYTES else None
    except HubTestsError:
        return None


@contextmanager
def follow_progress(path: Path, display: ProgressDisplay) -> Iterator[None]:
    """Show the file's events as they come; at the end of the block, those that are left."""
    reader, over = ProgressReader(path), threading.Event()

    def follow() -> None:
        while not over.wait(POLL_SECONDS):
            show_new()
            display.tick()
        show_new()

    def show_new() -> None:
        for event in reader.read_new():
            display.show(event)

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
