"""Compare what was downloaded with the digests that the Hub publishes: SHA-256 of whole files in LFS.

Nothing is published for a part of a file: a Git LFS pointer has one SHA-256, and the Xet protocol sends no hashes of
the chunks that it delivers (https://huggingface.co/docs/xet/download-protocol; hf_xet 1.8 returns bytes alone). So a
file of which only some tensors are kept stays without proof that the CDN sent its bytes unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.hub.file_hashes import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ci.hub.download_plan import OutputFile, PlacedTensor
    from ci.hub.header import Header
    from ci.hub.repository import Repository


@dataclass(frozen=True)
class WholeFile:
    """An upstream file of which every byte is downloaded, and its published digest.

    `start` are the file's first bytes where they are not in the outputs (its header). `spans` are all other bytes in
    the file's order.
    """

    path: str
    sha256: str
    start: bytes
    spans: tuple[Span, ...]


def find_whole_files(
    repository: Repository, outputs: Iterable[OutputFile], headers: Mapping[str, Header]
) -> tuple[WholeFile, ...]:
    """Find the upstream files that `outputs` hold whole and whose digest the Hub lists.

    `headers` are those of safetensors files; any other file has none.
    """
    by_shard: dict[str, list[tuple[PlacedTensor, str]]] = {}
    copies: dict[str, tuple[Span, ...]] = {}
    for output in outputs:
        if output.copy_of:
            copies[output.copy_of] = (Span(output.name, 0, output.size),)
        for placed in output.tensors:
            by_shard.setdefault(placed.source.shard, []).append((placed, output.name))
    found = []
    for path, placed_tensors in sorted(by_shard.items()):
        file, header = repository.get_file(path), headers.get(path)
        size = sum(placed.size for placed, _ in placed_tensors) + (header.data_start if header else 0)
        if file.sha256 is None or size != file.size:
            continue
        ordered = sorted(placed_tensors, key=lambda pair: pair[0].source.begin)
        spans = tuple(Span(name, placed.offset, placed.offset + placed.size) for placed, name in ordered)
        start = header.content if header and path not in copies else b""
        found.append(WholeFile(path, file.sha256, start, copies.get(path, spans)))
    return tuple(found)


def list_unverified(sources: Iterable[str], whole: Iterable[WholeFile]) -> tuple[str, ...]:
    """List the upstream files whose bytes were compared with no digest of the Hub."""
    return tuple(sorted(set(sources) - {file.path for file in whole}))


def describe_unverified(files: Sequence[str]) -> tuple[str, ...]:
    """Return the line that says which upstream files were not verified; none where all were."""
    if not files:
        return ()
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    why = "no digest of the Hub covers the bytes that were fetched (it publishes one for each whole file in LFS)"
    return (f"not verified upstream: {files[0]}{more}: {why}",)
