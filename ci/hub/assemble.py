"""A directory becomes a checkpoint: tensors, config.json, index, small files, and the manifest last."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ci.errors import InfrastructureError
from ci.hub import layers as layering
from ci.hub import small_files
from ci.hub.header import Tensor
from ci.hub.listing import Repository
from ci.hub.manifest import MANIFEST, RULES_VERSION, SCHEMA, FileEntry, Manifest, TensorEntry, to_bytes
from ci.hub.model_config import Config, read_config
from ci.hub.ranges import OutputFile, Placed, Source, lay_out, weight_map
from ci.hub.remote import Hub
from ci.hub.transfer import Digests, Transfer
from ci.hub.truncation import truncate
from ci.hub.weights import SAFETENSORS_INDEX, Selection, Weights, choose, find_weights, select

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_FILE = 5_000_000_000
"""Bytes of tensors in one file, unless a single tensor is larger; about what transformers writes."""
MAX_CONFIG = 1024**2
DOWNLOADS = "downloads"
"""Where whole upstream files wait, inside a partial directory, until their tensors are written."""


@dataclass(frozen=True)
class Upstream:
    """What is known of a repository before its tensors are looked at."""

    hub: Hub
    repository: Repository
    config: Config
    weights: Weights
    allow_remote_code: bool


@dataclass(frozen=True)
class Site:
    """Where a checkpoint is built, and how to ask for room on that disk.

    `tick(phase, done, total)` is called often while it is built: it is also the sign that somebody is at work.
    """

    directory: Path
    reserve: Callable[[int], None]
    tick: Callable[[str, int, int], None]


def look_up(hub: Hub, repository: Repository, layers: int | Literal["auto"], *, allow_remote_code: bool) -> Upstream:
    """Read config.json and the index. What cannot be truncated to `layers` is refused here, before much is moved."""
    what = repository.label(small_files.CONFIG)
    content = hub.read(repository, small_files.CONFIG, limit=MAX_CONFIG)
    try:
        config = read_config(content.decode("utf-8"), what=what)
    except UnicodeDecodeError:
        raise InfrastructureError(f"{what}: not UTF-8 text") from None
    truncate(config, config.depth if layers == "auto" else layers)
    return Upstream(hub, repository, config, find_weights(hub, repository), allow_remote_code)


def select_tensors(upstream: Upstream, layers: int | Literal["auto"]) -> Selection:
    """The tensors that stay, from the headers of a safetensors repository."""
    return select(upstream.hub, upstream.repository, upstream.config, upstream.weights, layers)


def fill(upstream: Upstream, selection: Selection, site: Site) -> None:
    """Bring the selected tensors and everything else into the directory; it is a checkpoint afterwards."""
    outputs = lay_out(selection.sources, max_file=MAX_FILE)
    transfer = Transfer(upstream.hub, upstream.repository, outputs, site.directory)
    site.reserve(transfer.unreserved)
    digests = transfer.run(partial(site.tick, "tensors"))
    transfer.finish()
    _complete(upstream, selection, site, outputs, digests)


def fill_from_pickled(upstream: Upstream, layers: int | Literal["auto"], site: Site) -> Selection:
    """The same from whole `.bin` files: what is kept is known only when they are there."""
    from ci.hub.pickled import PickledFiles

    downloads = [_whole(upstream.repository, file) for file in _touched(upstream, layers)]
    transfer = Transfer(upstream.hub, upstream.repository, downloads, site.directory)
    site.reserve(2 * transfer.unreserved)
    for name, digest in transfer.run(partial(site.tick, "tensors")).items():
        _check_download(upstream.repository, site.directory / name, name.removeprefix(f"{DOWNLOADS}/"), digest)
    files = PickledFiles({output.tensors[0].source.shard: site.directory / output.name for output in downloads})
    selection = _select_pickled(upstream, layers, files.tensors())
    outputs = lay_out(selection.sources, max_file=MAX_FILE)
    digests = files.write(outputs, site.directory, partial(site.tick, "writing"))
    del files
    shutil.rmtree(site.directory / DOWNLOADS)
    transfer.finish()
    _complete(upstream, selection, site, outputs, digests)
    return selection


def _touched(upstream: Upstream, layers: int | Literal["auto"]) -> list[str]:
    names = upstream.weights.weight_map
    if names is None or layers == "auto":
        return list(upstream.weights.files)
    found = layering.find_layers(names, upstream.config.stacks, what=upstream.config.what)
    return sorted({file for name, file in names.items() if found.keeps(name, layers)})


def _whole(repository: Repository, file: str) -> OutputFile:
    """A whole upstream file as one output, so that it is moved, hashed and resumed like any other."""
    size = repository.file(file).size
    source = Source(file, Tensor(file, "U8", (size,), 0, size), 0, size)
    return OutputFile(f"{DOWNLOADS}/{file}", b"", (Placed(source, 0),), size)


def _check_download(repository: Repository, path: Path, file: str, digests: Digests) -> None:
    """Compare a whole file with the digest in the listing; a wrong one must not be gone on from."""
    if repository.file(file).sha256 not in (None, digests.file):
        path.unlink()
        raise InfrastructureError(f"{repository.label(file)}: content does not match its digest; fetch it again")


def _select_pickled(
    upstream: Upstream, layers: int | Literal["auto"], tensors: Mapping[str, tuple[str, Tensor]]
) -> Selection:
    """The tensors that stay, of those in the downloaded files; an index still names those in the others."""
    names = upstream.weights.weight_map or dict.fromkeys(tensors, upstream.weights.files[0])
    found = layering.find_layers(names, upstream.config.stacks, what=upstream.config.what)
    by_name = {name: tensor for name, (_, tensor) in tensors.items()}
    auto = choose(found, upstream.config, by_name) if layers == "auto" else layering.Auto(layers)
    kept = [name for name in names if found.keeps(name, auto.layers)]
    for name in kept:
        if name not in tensors:
            raise InfrastructureError(f"{upstream.repository.label(names[name])}: lacks tensor {name[:200]!r}")
    entries = (tensors[name] for name in kept)
    sources = (Source(file, tensor, tensor.begin, tensor.end) for file, tensor in entries)
    return Selection(auto, tuple(sources), found.mtp(names))


def _complete(
    upstream: Upstream,
    selection: Selection,
    site: Site,
    outputs: Iterable[OutputFile],
    digests: Mapping[str, Digests],
) -> None:
    """Write what is left, and the manifest when all else is on the disk."""
    outputs = tuple(outputs)
    files = {output.name: FileEntry(output.size, digests[output.name].file) for output in outputs}
    for name, content in _texts(upstream, selection, outputs):
        site.tick("files", len(files), 0)
        _write(site.directory / name, content)
        files[name] = FileEntry(len(content), hashlib.sha256(content).hexdigest())
    manifest = Manifest(
        schema=SCHEMA,
        model_id=upstream.repository.model_id,
        commit=upstream.repository.commit,
        rules=RULES_VERSION,
        layers=selection.auto.layers,
        layers_upstream=upstream.config.depth,
        remote_code=upstream.allow_remote_code,
        bytes_kept=sum(source.end - source.begin for source in selection.sources),
        sources={name: _claim(upstream.repository, name) for name in sorted({s.shard for s in selection.sources})},
        tensors=_tensor_entries(outputs, digests, pickled=upstream.weights.pickled),
        files=dict(sorted(files.items())),
        notes=_notes(upstream, selection),
    )
    draft = site.directory / f"{MANIFEST}.draft"
    _write(draft, to_bytes(manifest))
    draft.rename(site.directory / MANIFEST)


def _texts(upstream: Upstream, selection: Selection, outputs: tuple[OutputFile, ...]) -> Iterable[tuple[str, bytes]]:
    """Every file that is no tensor file, with its content, one at a time."""
    hub, repository = upstream.hub, upstream.repository
    yield small_files.CONFIG, truncate(upstream.config, selection.auto.layers).encode()
    if len(outputs) > 1:
        total = {"total_size": sum(source.end - source.begin for source in selection.sources)}
        yield SAFETENSORS_INDEX, json.dumps({"metadata": total, "weight_map": weight_map(outputs)}, indent=1).encode()
    listed = [name for name in repository.files if "/" not in name or name.endswith(".py")]
    first = [small_files.TOKENIZER_CONFIG] if small_files.TOKENIZER_CONFIG in listed else []
    known = {name: hub.read(repository, name, limit=small_files.MAX_SMALL_FILE) for name in first}
    tokenizer_config = known.get(small_files.TOKENIZER_CONFIG)
    for name in small_files.wanted(listed, tokenizer_config, allow_remote_code=upstream.allow_remote_code):
        yield name, known.get(name) or hub.read(repository, name, limit=small_files.MAX_SMALL_FILE)


def _tensor_entries(
    outputs: tuple[OutputFile, ...], digests: Mapping[str, Digests], *, pickled: bool
) -> dict[str, TensorEntry]:
    entries = {}
    for output in outputs:
        for placed in output.tensors:
            source, tensor = placed.source, placed.source.tensor
            begin, end = (None, None) if pickled else (source.begin, source.end)
            sha256 = digests[output.name].tensors[tensor.name]
            entries[tensor.name] = TensorEntry(
                tensor.dtype, tensor.shape, sha256, output.name, source.shard, begin, end
            )
    return dict(sorted(entries.items()))


def _claim(repository: Repository, file: str) -> FileEntry:
    listed = repository.file(file)
    return FileEntry(listed.size, listed.sha256)


def _notes(upstream: Upstream, selection: Selection) -> tuple[str, ...]:
    notes = []
    if upstream.weights.pickled:
        notes.append(
            "the repository has no safetensors files, so whole .bin files (with auto all of them) were moved and their "
            "tensors written anew"
        )
    if selection.mtp:
        notes.append(f"{selection.mtp} tensors of modules that predict further tokens (MTP) were left out")
    return tuple(notes)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
