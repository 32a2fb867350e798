"""Hashes that follow a download: of spans in any order, while pieces arrive in any order."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from ci.hub import file_hashes
from ci.hub.download_plan import plan_output_files
from ci.hub.file_hashes import FileHasher, Span
from ci.hub.piece_plan import plan_pieces
from ci.hub.piece_state import PieceState
from tests.ci.hub.test_piece_plan import source

if TYPE_CHECKING:
    from pathlib import Path


def test_hashes_wait_for_their_bytes(tmp_path: Path) -> None:
    sources = [source(f"t{n}", 100 * n, 100, dtype="F32" if n % 2 else "U8") for n in range(20)]
    (output,) = plan_output_files(sources, max_file_size=10**9)
    pieces = plan_pieces([output], piece_size=30)
    content = output.header + random.Random(0).randbytes(output.size - len(output.header))
    handle = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(handle, output.header.ljust(output.size, b"\0"), 0)
    state = PieceState(pieces, [])
    hasher = FileHasher([output], pieces, state, {output.name: handle})

    def arrive() -> None:
        for number in random.Random(1).sample(range(len(pieces)), len(pieces)):
            for part in pieces[number].parts:
                os.pwrite(handle, content[part.offset : part.offset + part.end - part.begin], part.offset)
            state.mark_complete([number])

    thread = threading.Thread(target=arrive)
    thread.start()
    spans = [Span(output.name, p.offset, p.offset + p.size) for p in output.tensors]
    each = [hashlib.sha256(content[s.begin : s.end]).hexdigest() for s in spans]
    assert hasher.hash_file(output.name, output.size, spans) == (hashlib.sha256(content).hexdigest(), each)
    spans.reverse()
    joined = b"head" + b"".join(content[s.begin : s.end] for s in spans)
    assert hasher.hash_all(spans, b"head") == hashlib.sha256(joined).hexdigest()
    thread.join()
    os.close(handle)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    (output,) = plan_output_files([source("empty", 0, 0)], max_file_size=10**9)
    handle = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(handle, output.header, 0)
    hasher = FileHasher([output], [], PieceState([], []), {output.name: handle})
    assert hasher.hash_all([Span(output.name, 0, output.size)]) == hashlib.sha256(output.header).hexdigest()
    os.close(handle)


@pytest.mark.parametrize("block", [1, 7, 8, 64])
def test_parts_of_a_file_whatever_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(file_hashes, "BLOCK_SIZE", block)
    sizes = [0, 8, 0, 0, 16, 8, 24, 0]
    begins = [100 * n for n in range(len(sizes))]
    sources = [source(f"t{n}", at, size) for n, (at, size) in enumerate(zip(begins, sizes, strict=True))]
    (output,) = plan_output_files(sources, max_file_size=10**9)
    content = output.header + random.Random(0).randbytes(output.size - len(output.header))
    (tmp_path / "file").write_bytes(content)
    handle = os.open(tmp_path / "file", os.O_RDONLY)
    pieces = plan_pieces([output], piece_size=30)
    hasher = FileHasher([output], pieces, PieceState(pieces, range(len(pieces))), {output.name: handle})
    spans = [Span(output.name, p.offset, p.offset + p.size) for p in output.tensors]
    each = [hashlib.sha256(content[s.begin : s.end]).hexdigest() for s in spans]
    assert hasher.hash_file(output.name, output.size, spans) == (hashlib.sha256(content).hexdigest(), each)
    os.close(handle)
