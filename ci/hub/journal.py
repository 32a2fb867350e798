"""Which pieces of an interrupted fetch are on the disk for good: one JSON line each, appended after the data is synced.

The first line names the plan (a digest of every file's layout). Parts of another plan are worthless and go. A torn or
foreign line counts for nothing: its piece is fetched again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ci.hub.ranges import OutputFile, Piece

JOURNAL = ".parts.jsonl"


def has_parts(directory: Path) -> bool:
    """Whether an interrupted fetch left anything in `directory` that saves the next one work."""
    with suppress(OSError):
        return '"piece"' in (directory / JOURNAL).read_text(encoding="utf-8", errors="replace")
    return False


class Journal:
    """The journal of the plan `(outputs, pieces)` in `directory`. `done` are the pieces that need no fetching."""

    def __init__(self, directory: Path, outputs: Sequence[OutputFile], pieces: Sequence[Piece]) -> None:
        self._path = directory / JOURNAL
        plan = _digest(outputs, pieces)
        self.done = self._read(plan)
        if self.done is None or not all(_present(directory, output) for output in outputs):
            _empty(directory)
            self.done = set()
            self._append([json.dumps({"plan": plan})])

    def add(self, pieces: Iterable[int]) -> None:
        """Note pieces whose bytes are on the disk."""
        self._append([json.dumps({"piece": piece}) for piece in pieces])

    def end(self) -> None:
        """The fetch is complete: no journal belongs into a checkpoint."""
        self._path.unlink(missing_ok=True)

    def _read(self, plan: str) -> set[int] | None:
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        records = []
        for line in lines:
            with suppress(ValueError):
                records.append(json.loads(line))
        if not records or records[0] != {"plan": plan}:
            return None
        numbers = [record.get("piece") for record in records[1:] if isinstance(record, dict)]
        return {number for number in numbers if type(number) is int}

    def _append(self, lines: Sequence[str]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"\n{line}\n" for line in lines))  # a torn line before must not swallow the next
            file.flush()
            os.fsync(file.fileno())


def _digest(outputs: Sequence[OutputFile], pieces: Sequence[Piece]) -> str:
    digest = hashlib.sha256()
    for output in outputs:
        digest.update(f"{output.name} {output.size}\n".encode() + output.header)
    for piece in pieces:
        digest.update(f"{piece.shard} {piece.begin} {piece.end} {piece.output} {piece.at}\n".encode())
    return digest.hexdigest()


def _present(directory: Path, output: OutputFile) -> bool:
    path = directory / output.name
    return path.is_file() and path.stat().st_size == output.size


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
