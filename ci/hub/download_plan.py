"""Plan output files from the kept tensors. Pure: sizes and offsets only.

Kept tensors stay in the order of their shard. Wide dtypes come first, as in files that safetensors writes, so that
every tensor is aligned to its dtype.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from ci.hub.header import DTYPE_BITS, TensorInfo, write_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

METADATA = {"format": "pt"}
"""transformers reads only files whose metadata names a framework."""


@dataclass(frozen=True)
class TensorSource:
    """A tensor on the Hub: bytes [begin, end) of the file `shard`.

    `tensor` has the name and shape that are written; `upstream_name` is the name there, where that is another one.
    """

    shard: str
    tensor: TensorInfo
    begin: int
    end: int
    upstream_name: str = ""


@dataclass(frozen=True)
class PlacedTensor:
    """A tensor and the byte `offset` of the output file where it goes."""

    source: TensorSource
    offset: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.source.end - self.source.begin


@dataclass(frozen=True)
class OutputFile:
    """A safetensors file to write: the bytes of its header, then `tensors` without gaps; `size` bytes in all."""

    name: str
    header: bytes
    tensors: tuple[PlacedTensor, ...]
    size: int


def plan_output_files(sources: Iterable[TensorSource], *, max_file_size: int) -> tuple[OutputFile, ...]:
    """Plan files of at most `max_file_size` bytes of tensors; a single one is `model.safetensors`."""
    ordered = sorted(sources, key=lambda s: (-DTYPE_BITS[s.tensor.dtype], s.shard, s.begin, s.tensor.name))
    batches = list(_group_by_size(ordered, max_file_size))
    return tuple(
        _plan_output_file(_name_output_file(number, len(batches)), batch) for number, batch in enumerate(batches, 1)
    )


def build_weight_map(outputs: Iterable[OutputFile]) -> dict[str, str]:
    """Return the output file of each tensor name, as an index file lists it."""
    return {placed.source.tensor.name: output.name for output in outputs for placed in output.tensors}


def _group_by_size(ordered: list[TensorSource], max_file_size: int) -> Iterator[list[TensorSource]]:
    number, filled = 0, 0
    numbers = []
    for source in ordered:
        size = source.end - source.begin
        if filled and filled + size > max_file_size:
            number, filled = number + 1, 0
        filled += size
        numbers.append(number)
    for _, batch in groupby(zip(numbers, ordered, strict=True), key=lambda pair: pair[0]):
        yield [source for _, source in batch]


def _plan_output_file(name: str, batch: list[TensorSource]) -> OutputFile:
    offsets = [0]
    for source in batch:
        offsets.append(offsets[-1] + source.end - source.begin)
    spans = zip(batch, offsets, offsets[1:], strict=False)
    header = write_header([replace(s.tensor, begin=begin, end=end) for s, begin, end in spans], METADATA)
    placed = (PlacedTensor(source, len(header) + offset) for source, offset in zip(batch, offsets, strict=False))
    return OutputFile(name, header, tuple(placed), len(header) + offsets[-1])


def _name_output_file(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
