"""Plan output files from the kept tensors. Pure: sizes and offsets only.

Where nothing is left out, each shard is written as it is: one SHA-256 is then the file's own and the Hub's. Otherwise
kept tensors stay in the order of their shard. Wide dtypes come first, as in files that safetensors writes, so that
every tensor is aligned to its dtype.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from ci.hub.header import DTYPE_BITS, TensorInfo, write_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ci.hub.header import Header

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
    """A safetensors file to write: the bytes of its header, then `tensors` without gaps; `size` bytes in all.

    `copy_of` is the upstream file that it equals byte by byte, empty where it equals none.
    """

    name: str
    header: bytes
    tensors: tuple[PlacedTensor, ...]
    size: int
    copy_of: str = ""


def plan_output_files(
    sources: Iterable[TensorSource], *, max_file_size: int, headers: Mapping[str, Header] | None = None
) -> tuple[OutputFile, ...]:
    """Plan the files that hold the kept tensors; a single one is `model.safetensors`.

    Where they are all tensors of their shards, unchanged, each shard is copied with its header in `headers`. Otherwise
    a file has at most `max_file_size` bytes of tensors.
    """
    ordered = sorted(sources, key=lambda s: (-DTYPE_BITS[s.tensor.dtype], s.shard, s.begin, s.tensor.name))
    if copied := _find_copied_shards(ordered, headers or {}):
        return tuple(
            _copy_shard(_name_output_file(number, len(copied)), *shard) for number, shard in enumerate(copied, 1)
        )
    batches = list(_group_by_size(ordered, max_file_size))
    return tuple(
        _plan_output_file(_name_output_file(number, len(batches)), batch) for number, batch in enumerate(batches, 1)
    )


def build_weight_map(outputs: Iterable[OutputFile]) -> dict[str, str]:
    """Return the output file of each tensor name, as an index file lists it."""
    return {placed.source.tensor.name: output.name for output in outputs for placed in output.tensors}


def _find_copied_shards(
    sources: Iterable[TensorSource], headers: Mapping[str, Header]
) -> list[tuple[Header, list[TensorSource]]]:
    """Return header and tensors of each shard where all are kept as they are; none where anything is left out."""
    by_shard: dict[str, list[TensorSource]] = {}
    for source in sources:
        by_shard.setdefault(source.shard, []).append(source)
    found = []
    for shard in sorted(by_shard):
        header = headers.get(shard)
        if header is None or header.metadata.get("format") != METADATA["format"]:
            return []
        if not _is_whole(header, by_shard[shard]):
            return []
        found.append((header, sorted(by_shard[shard], key=lambda source: (source.begin, source.end))))
    return found


def _is_whole(header: Header, sources: Iterable[TensorSource]) -> bool:
    """Return whether `sources` are all tensors of a shard, unchanged and aligned to their dtypes."""
    start = header.data_start
    kept = {(s.tensor.name, s.tensor.dtype, s.tensor.shape, s.begin, s.end) for s in sources}
    upstream = {(t.name, t.dtype, t.shape, start + t.begin, start + t.end) for t in header.tensors}
    return kept == upstream and all(8 * (start + t.begin) % DTYPE_BITS[t.dtype] == 0 for t in header.tensors)


def _copy_shard(name: str, header: Header, sources: list[TensorSource]) -> OutputFile:
    placed = tuple(PlacedTensor(source, source.begin) for source in sources)
    return OutputFile(name, header.content, placed, sources[-1].end, copy_of=sources[0].shard)


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
