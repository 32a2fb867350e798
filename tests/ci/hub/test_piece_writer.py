"""Bytes of a request in their places, whatever the chunks."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from ci.hub.piece_plan import Part, Piece
from ci.hub.piece_writer import PieceWriter

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("seed", range(20))
def test_any_chunks_fill_two_files_and_drop_the_gaps(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    content = chance.randbytes(300)
    at, parts, expected = 5, [], {"x": b"", "y": b""}
    while at < 280:
        end, output = at + chance.randint(1, 20), chance.choice("xy")
        parts.append(Part(at, end, output, len(expected[output])))
        expected[output] += content[at:end]
        at = end + chance.choice([0, 0, 3])
    cut = len(parts) // 2
    pieces = [Piece("s", p[0].begin, p[-1].end, tuple(p), n) for n, p in enumerate((parts[:cut], parts[cut:]))]
    handles = {name: os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in expected}
    writer, at, last = PieceWriter(pieces, handles), 5, parts[-1].end
    while at < last:
        size = min(chance.randint(1, 40), last - at)
        writer.write(at, content[at : at + size])
        at += size if chance.random() < 0.9 else 0  # some come twice
    assert writer.written == sum(map(len, expected.values()))
    for name, handle in handles.items():
        os.close(handle)
        assert (tmp_path / name).read_bytes() == expected[name]
