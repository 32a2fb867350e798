"""The journal of a fetch: which pieces are safely on the disk, one JSON line each, appended after their data.

The first line names the download plan (a digest of every file's layout). Pieces of another plan are deleted. A torn or
unknown line is ignored: its piece is downloaded again.
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

    from ci.hub.download_plan import OutputFile
    from ci.hub.piece_plan import Piece

JOURNAL = ".parts.jsonl"


def has_complete_pieces(directory: Path) -> bool:
    """Return whether an interrupted fetch left pieces that need no second download."""
    with suppress(OSError):
        return '"piece"' in (directory / JOURNAL).read_text(encoding="utf-8", errors="replace")
    return False


class Journal:
    """The journal in `directory` of a download plan. `complete_pieces` are the numbers of finished pieces.

    Opening it deletes everything in `directory` that belongs to another plan.
    """

    def __init__(self, directory: Path, outputs: Sequence[OutputFile], pieces: Sequence[Piece]) -> None:
        self._path, self._count = directory / JOURNAL, len(pieces)
        plan = _hash_plan(outputs, pieces)
        recorded = self._read_pieces(plan)
        self.complete_pieces = recorded or set()
        if recorded is None or not all(_has_full_size(directory, output) for output in outputs):
            _delete_content(directory)
            self.complete_pieces = set()
            self._append_lines([json.dumps({"plan": plan})])

    def record(self, pieces: Iterable[int]) -> None:
        """Append pieces; their bytes must be on the disk already."""
        self._append_lines([json.dumps({"piece": piece}) for piece in pieces])

    def forget(self, pieces: Iterable[int]) -> None:
        """Note that recorded pieces have wrong bytes."""
        self._append_lines([json.dumps({"wrong": piece}) for piece in pieces])

    def remove(self) -> None:
        """Delete the journal, because a checkpoint has none."""
        self._path.unlink(missing_ok=True)

    def _read_pieces(self, plan: str) -> set[int] | None:
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
        numbers: set[int] = set()
        for record in records[1:]:
            if not isinstance(record, dict):
                continue
            if type(record.get("piece")) is int:
                numbers.add(record["piece"])
            if type(record.get("wrong")) is int:
                numbers.discard(record["wrong"])
        return {number for number in numbers if 0 <= number < self._count}

    def _append_lines(self, lines: Sequence[str]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"\n{line}\n" for line in lines))  # starts on a new line, also after a torn one
            file.flush()
            os.fsync(file.fileno())


def _hash_plan(outputs: Sequence[OutputFile], pieces: Sequence[Piece]) -> str:
    digest = hashlib.sha256()
    for output in outputs:
        digest.update(f"{output.name} {output.size}\n".encode() + output.header)
    for piece in pieces:
        digest.update(f"{piece.shard} {piece.begin} {piece.end} {piece.position}\n".encode())
        for part in piece.parts:
            digest.update(f"{part.begin} {part.end} {part.output} {part.offset}\n".encode())
    return digest.hexdigest()


def _has_full_size(directory: Path, output: OutputFile) -> bool:
    path = directory / output.name
    return path.is_file() and path.stat().st_size == output.size


def _delete_content(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
