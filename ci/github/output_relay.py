"""Passes a child's output on, line by line, so that nobody but this process writes where the Actions runner reads."""

from __future__ import annotations

import codecs
import os
import re
import select
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ci.github.actions import neutralize_commands

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 2**16
MAX_LINE = 2**13
"""A longer line goes on in pieces."""
MAX_REST = 2**20
"""What is still read after the child's end, in bytes: the largest pipe holds as much (pipe(7))."""
_BEGUN_COMMAND = re.compile(r"[#:]{0,2}\Z")
"""What can become `##[` or `::` with the next piece: it must not be cut apart."""


@contextmanager
def relay_output(descriptor: int) -> Iterator[int]:
    """Yield a descriptor for a child's output; its lines go to `descriptor` with no workflow command in them.

    At the end of the block what the child wrote is passed on, and the pipe is closed: whatever it left running reaches
    the runner no more. A terminal is yielded itself: no runner reads it, and people get colors and its width.
    """
    if os.isatty(descriptor):
        yield descriptor
        return
    read, write = os.pipe()
    ended_read, ended_write = os.pipe()
    relay = threading.Thread(target=_relay, args=(read, ended_read, _Lines(descriptor)), name="relay", daemon=True)
    relay.start()
    try:
        yield write
    finally:
        for ours in (write, ended_write):
            os.close(ours)
        relay.join()
        for ours in (read, ended_read):
            os.close(ours)


def _relay(read: int, ended: int, lines: _Lines) -> None:
    """Pass on output until its writers are gone, or the child has ended and the pipe is empty."""
    poll, rest = select.poll(), MAX_REST
    for source in (read, ended):
        poll.register(source, select.POLLIN)
    while rest > 0:
        ready = [source for source, _ in poll.poll()]
        if read not in ready:
            break
        if not (piece := os.read(read, BLOCK)):
            break
        rest -= len(piece) if ended in ready else 0
        lines.add(piece)
    lines.finish()


@dataclass
class _Lines:
    """Writes whole lines: a command may arrive in pieces."""

    descriptor: int
    _text: str = ""
    _at_start: bool = True
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    def add(self, piece: bytes) -> None:
        lines, newline, self._text = (self._text + self._decoder.decode(piece)).rpartition("\n")
        self._write(lines + newline)
        if len(self._text) > MAX_LINE:
            cut = len(self._text) - len(_BEGUN_COMMAND.search(self._text)[0])  # type: ignore[index]  # always matches
            self._write(self._text[:cut])
            self._text = self._text[cut:]

    def finish(self) -> None:
        """Write an unfinished last line, and end it: what follows is somebody else's."""
        rest = self._text + self._decoder.decode(b"", final=True)
        self._write(rest if self._at_start and not rest else f"{rest}\n")
        self._text = ""

    def _write(self, text: str) -> None:
        self._at_start = text.endswith("\n") or (self._at_start and not text)
        left = neutralize_commands(text).encode("utf-8", "replace")
        with suppress(OSError):  # nobody reads any more: the child goes on
            while left:
                left = left[os.write(self.descriptor, left) :]
