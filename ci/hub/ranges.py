"""From kept tensors to output files and byte ranges. Pure: sizes and offsets only.

Kept tensors stay in the order in which their shard holds them, so that neighbours stay neighbours and a run of them
is one range. Wide dtypes come first, as safetensors itself sorts them, so that every tensor is aligned to its dtype.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from ci.hub.header import DTYPE_BITS, Tensor, write_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

METADATA = {"format": "pt"}
"""transformers reads only files that say which framework wrote them."""


@dataclass(frozen=True)
class Source:
    """A tensor in its shard upstream; its bytes are [begin, end) of the file `shard`."""

    shard: str
    tensor: Tensor
    begin: int
    end: int


@dataclass(frozen=True)
class Placed:
    """A tensor's way: from `source` to the byte `at` of the output file."""

    source: Source
    at: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.source.end - self.source.begin


@dataclass(frozen=True)
class OutputFile:
    """One safetensors file to be written: its header's bytes, then `tensors` back to back, `size` bytes in all."""

    name: str
    header: bytes
    tensors: tuple[Placed, ...]
    size: int


@dataclass(frozen=True)
class Piece:
    """One request: bytes [begin, end) of the upstream file `shard` go to byte `at` of the output file `output`."""

    shard: str
    begin: int
    end: int
    output: str
    at: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin


def lay_out(sources: Iterable[Source], *, max_file: int) -> tuple[OutputFile, ...]:
    """Output files of at most `max_file` bytes of tensors each; one file is called `model.safetensors`."""
    ordered = sorted(sources, key=lambda s: (-DTYPE_BITS[s.tensor.dtype], s.shard, s.begin, s.tensor.name))
    batches = list(_batches(ordered, max_file))
    return tuple(_output(_name(number, len(batches)), batch) for number, batch in enumerate(batches, 1))


def weight_map(outputs: Iterable[OutputFile]) -> dict[str, str]:
    """Tensor name to output file, as an index file lists it."""
    return {placed.source.tensor.name: output.name for output in outputs for placed in output.tensors}


def pieces(output: OutputFile, *, piece: int) -> tuple[Piece, ...]:
    """The requests that fill `output`, in the order of its bytes: neighbours joined, then cut to at most `piece`."""
    return tuple(part for run in _runs(output) for part in _cut(run, piece))


def _runs(output: OutputFile) -> Iterator[Piece]:
    run: Piece | None = None
    for placed in output.tensors:
        source = placed.source
        if source.begin == source.end:
            continue
        if run and (run.shard, run.end) == (source.shard, source.begin):
            run = replace(run, end=source.end)
            continue
        if run:
            yield run
        run = Piece(source.shard, source.begin, source.end, output.name, placed.at)
    if run:
        yield run


def _cut(run: Piece, piece: int) -> Iterator[Piece]:
    for begin in range(run.begin, run.end, piece):
        end = min(begin + piece, run.end)
        yield replace(run, begin=begin, end=end, at=run.at + begin - run.begin)


def _batches(ordered: list[Source], max_file: int) -> Iterator[list[Source]]:
    number, filled = 0, 0
    numbers = []
    for source in ordered:
        size = source.end - source.begin
        if filled and filled + size > max_file:
            number, filled = number + 1, 0
        filled += size
        numbers.append(number)
    for _, batch in groupby(zip(numbers, ordered, strict=True), key=lambda pair: pair[0]):
        yield [source for _, source in batch]


def _output(name: str, batch: list[Source]) -> OutputFile:
    offsets = [0]
    for source in batch:
        offsets.append(offsets[-1] + source.end - source.begin)
    spans = zip(batch, offsets, offsets[1:], strict=False)
    header = write_header([replace(s.tensor, begin=begin, end=end) for s, begin, end in spans], METADATA)
    placed = (Placed(source, len(header) + offset) for source, offset in zip(batch, offsets, strict=False))
    return OutputFile(name, header, tuple(placed), len(header) + offsets[-1])


def _name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
