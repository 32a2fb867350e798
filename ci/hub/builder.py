"""Build a truncated checkpoint in a directory: tensors, config.json, index, small files, and the manifest last."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ci.companion_files import GENERATION_CONFIG, TOKENIZER_CONFIG
from ci.errors import InfrastructureError
from ci.hub import small_files
from ci.hub.download_plan import OutputFile, PlacedTensor, TensorSource, build_weight_map, plan_output_files
from ci.hub.header import TensorInfo
from ci.hub.layers import make_choice
from ci.hub.manifest import MANIFEST, RULES_VERSION, SCHEMA, FileEntry, Manifest, TensorEntry, encode_manifest
from ci.hub.model_config import parse_config
from ci.hub.repository import RemoteFile
from ci.hub.slices import WHOLE, Slice, list_slice_edits, list_slice_notes, make_slice_rules, slice_generation_config
from ci.hub.strict_json import parse_object
from ci.hub.transfer import Digests, Transfer
from ci.hub.truncation import truncate_config
from ci.hub.verification import WholeFile, find_whole_files, list_unverified
from ci.hub.weights import (
    SAFETENSORS_INDEX,
    KeptSources,
    RemoteModel,
    TensorSelection,
    choose_layers,
    find_model_layers,
    find_weight_files,
    make_missing_tensor_error,
    place_tensors,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ci.hub.layers import LayerRequest
    from ci.hub.remote import HubClient
    from ci.hub.repository import Repository

MAX_FILE_SIZE = 5_000_000_000
"""Bytes of tensors in one file, unless a single tensor is larger; about what transformers writes."""
MAX_CONFIG_SIZE = 16 * 1024**2
"""Bytes of a config.json; that of MiniMax-M3 has 3 MB, with a list of the modules that are not quantized."""
DOWNLOADS = "downloads"
"""Folder in a partial directory for whole `.bin` files, until their tensors are written."""


@dataclass(frozen=True)
class BuildTarget:
    """The directory that becomes a checkpoint.

    `check_free_space(bytes)` raises when the disk has less. `on_progress(phase, done, total)` is called often during
    the build; it also renews the lease of the directory. `find_known(file)` returns what the store already has of the
    model's small files.
    """

    directory: Path
    check_free_space: Callable[[int], None]
    on_progress: Callable[[str, int, int], None]
    find_known: Callable[[RemoteFile], bytes | None]


def inspect_model(
    hub: HubClient,
    repository: Repository,
    layers: LayerRequest,
    wanted: Slice = WHOLE,
) -> RemoteModel:
    """Read config.json and the index of a repository.

    Raises RequestError for a model that cannot be truncated to `layers`, or not cut to the slice that is wanted, before
    any tensor is downloaded.
    """
    what = repository.label(small_files.CONFIG)
    content = hub.read_file(repository, small_files.CONFIG, limit=MAX_CONFIG_SIZE)
    try:
        config = parse_config(content.decode("utf-8"), what=what)
    except UnicodeDecodeError:
        raise InfrastructureError(f"{what}: not UTF-8 text; report it to the owner of the model") from None
    make_slice_rules(config, wanted)
    truncate_config(config, config.depth if layers == "auto" else layers, list_slice_edits(config, wanted))
    return RemoteModel(hub, repository, config, find_weight_files(hub, repository), wanted)


def build_checkpoint(model: RemoteModel, selection: TensorSelection, target: BuildTarget) -> None:
    """Download the selected tensors, then write every other file of the checkpoint."""
    outputs = plan_output_files(selection.sources, max_file_size=MAX_FILE_SIZE, headers=selection.headers)
    whole_files = find_whole_files(model.repository, outputs, selection.headers)
    transfer = Transfer(model.hub, model.repository, outputs, target.directory, whole_files)
    target.check_free_space(transfer.bytes_to_allocate)
    digests = transfer.run(partial(target.on_progress, "tensors"))
    transfer.remove_journal()
    _write_other_files(model, selection, target, outputs, digests, whole_files)


def build_from_torch_bin(model: RemoteModel, layers: LayerRequest, target: BuildTarget) -> TensorSelection:
    """Build the checkpoint from whole `.bin` files; what is kept is known only after their download."""
    from ci.hub.torch_bin import TorchBinFiles

    downloads = [_plan_whole_file(model.repository, file) for file in list_needed_files(model, layers)]
    whole_files = find_whole_files(model.repository, downloads, {})
    transfer = Transfer(model.hub, model.repository, downloads, target.directory, whole_files)
    target.check_free_space(2 * transfer.bytes_to_allocate)
    transfer.run(partial(target.on_progress, "tensors"))
    files = TorchBinFiles({output.tensors[0].source.shard: target.directory / output.name for output in downloads})
    selection = _select_from_torch_bin(model, layers, files.list_tensors())
    outputs = plan_output_files(selection.sources, max_file_size=MAX_FILE_SIZE)
    digests = files.write_files(outputs, target.directory, partial(target.on_progress, "writing"))
    del files  # unmaps the downloads
    shutil.rmtree(target.directory / DOWNLOADS)
    transfer.remove_journal()
    _write_other_files(model, selection, target, outputs, digests, whole_files)
    return selection


def list_needed_files(model: RemoteModel, layers: LayerRequest) -> list[str]:
    """List the whole `.bin` files that hold tensors of the kept layers; for "auto" all of them."""
    files = model.weights.weight_map
    if files is None or layers == "auto":
        return list(model.weights.files)
    prefixes, positions = find_model_layers(files, model.config), make_choice(layers).positions
    return sorted({file for name, file in files.items() if prefixes.place(name, positions) is not None})


def _plan_whole_file(repository: Repository, file: str) -> OutputFile:
    """Describe a whole upstream file as an output, for a resumable transfer."""
    size = repository.get_file(file).size
    source = TensorSource(file, TensorInfo(file, "U8", (size,), 0, size), 0, size)
    return OutputFile(f"{DOWNLOADS}/{file}", b"", (PlacedTensor(source, 0),), size, copy_of=file)


def _select_from_torch_bin(
    model: RemoteModel, layers: LayerRequest, tensors: Mapping[str, tuple[str, TensorInfo]]
) -> TensorSelection:
    """Select the kept tensors of the downloaded files.

    The index may name tensors of other files too.
    """
    files = model.weights.weight_map or dict.fromkeys(tensors, model.weights.files[0])
    prefixes = find_model_layers(files, model.config)
    by_name = {name: tensor for name, (_, tensor) in tensors.items()}
    choice = choose_layers(prefixes, model.config, by_name) if layers == "auto" else make_choice(layers)
    positions = choice.positions
    kept = [name for name in files if prefixes.place(name, positions) is not None]
    for name in kept:
        if name not in tensors:
            raise make_missing_tensor_error(model.repository, files[name], name)
    entries = (tensors[name] for name in kept)
    sources = (TensorSource(file, tensor, tensor.begin, tensor.end) for file, tensor in entries)
    return place_tensors(model, KeptSources(choice, prefixes, tuple(sources), tuple(files)))


def _write_other_files(
    model: RemoteModel,
    selection: TensorSelection,
    target: BuildTarget,
    outputs: Sequence[OutputFile],
    digests: Mapping[str, Digests],
    whole_files: Sequence[WholeFile],
) -> None:
    """Write everything except the tensor files; the manifest comes last."""
    files = {output.name: FileEntry(output.size, digests[output.name].file) for output in outputs}
    for name, content in _iter_made_files(model, selection, outputs):
        files[name] = _write_file(target.directory / name, content)
    files |= _fetch_small_files(model, target)
    manifest = _make_manifest(model, selection, outputs, digests, files, whole_files)
    draft = target.directory / f"{MANIFEST}.draft"
    _write_synced(draft, encode_manifest(manifest))
    draft.rename(target.directory / MANIFEST)


def _make_manifest(
    model: RemoteModel,
    selection: TensorSelection,
    outputs: Iterable[OutputFile],
    digests: Mapping[str, Digests],
    files: Mapping[str, FileEntry],
    whole_files: Sequence[WholeFile],
) -> Manifest:
    shards = sorted({source.shard for source in selection.sources})
    return Manifest(
        schema=SCHEMA,
        model_id=model.repository.model_id,
        commit=model.repository.commit,
        rules=RULES_VERSION,
        layers=selection.choice.layers,
        layers_upstream=model.config.depth,
        remote_code=False,
        bytes_kept=selection.size,
        sources={shard: _describe_upstream_file(model.repository, shard) for shard in shards},
        tensors=_list_tensor_entries(outputs, digests, is_torch_bin=model.weights.is_torch_bin),
        files=dict(sorted(files.items())),
        notes=_list_notes(model, selection),
        not_verified_upstream=list_unverified(shards, whole_files),
        dropped=selection.dropped,
        picked=selection.choice.picked,
        slice=model.slice,
    )


def _iter_made_files(
    model: RemoteModel, selection: TensorSelection, outputs: Sequence[OutputFile]
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files that are made here: config.json, and the index of several files."""
    edits = list_slice_edits(model.config, model.slice)
    yield small_files.CONFIG, truncate_config(model.config, selection.choice.kept, edits).encode()
    if len(outputs) > 1:
        index = {"metadata": {"total_size": selection.size}, "weight_map": build_weight_map(outputs)}
        yield SAFETENSORS_INDEX, json.dumps(index, indent=1).encode()


def _fetch_small_files(model: RemoteModel, target: BuildTarget) -> dict[str, FileEntry]:
    """Copy the small files from the store or from the Hub, several at once."""
    hub, repository, files = model.hub, model.repository, dict[str, FileEntry]()

    def fetch(name: str) -> FileEntry:
        known = target.find_known(repository.get_file(name))
        content = hub.read_file(repository, name, limit=small_files.MAX_SMALL_FILE) if known is None else known
        return _write_file(target.directory / name, _slice_small_file(name, content, model))

    def fetch_all(names: Sequence[str]) -> None:
        target.on_progress("files", len(files), 0)
        files.update(zip(names, hub.map_parallel(fetch, names), strict=True))

    listed = [name for name in repository.files if "/" not in name]
    fetch_all(small_files.select_small_files(repository.files))
    others = small_files.select_other_formats(listed, (target.directory / TOKENIZER_CONFIG).read_bytes)
    if others:
        fetch_all(others)
    return files


def _slice_small_file(name: str, content: bytes, model: RemoteModel) -> bytes:
    """Drop token ids beyond the kept rows of the vocabulary from generation_config.json; other files stay."""
    if name != GENERATION_CONFIG or model.slice.vocab is None:
        return content
    values = parse_object(content, what=model.repository.label(name))
    sliced = slice_generation_config(values, model.slice.vocab)
    return content if sliced == values else json.dumps(sliced, indent=2).encode()


def _list_tensor_entries(
    outputs: Iterable[OutputFile], digests: Mapping[str, Digests], *, is_torch_bin: bool
) -> dict[str, TensorEntry]:
    entries = {}
    for output in outputs:
        for placed in output.tensors:
            source, tensor = placed.source, placed.source.tensor
            begin, end = (None, None) if is_torch_bin else (source.begin, source.end)
            sha256 = digests[output.name].tensors[tensor.name]
            entries[tensor.name] = TensorEntry(
                tensor.dtype, tensor.shape, sha256, output.name, source.shard, begin, end
            )
    return dict(sorted(entries.items()))


def _describe_upstream_file(repository: Repository, file: str) -> FileEntry:
    listed = repository.get_file(file)
    return FileEntry(listed.size, listed.sha256)


def _list_notes(model: RemoteModel, selection: TensorSelection) -> tuple[str, ...]:
    notes = []
    if model.weights.is_torch_bin:
        notes.append(
            "the repository has no safetensors files, so whole .bin files (with auto all of them) were downloaded and "
            "their tensors were written as safetensors"
        )
    if selection.dropped:
        listed = "; ".join(selection.dropped)
        notes.append(f"tensors of multi-token prediction (MTP) modules were left out: {listed}")
    if picked := selection.choice.picked:
        notes.append(f"layers {', '.join(map(str, picked))} of {model.config.depth} are kept, renumbered from 0")
    notes += small_files.describe_left_out(model.repository.files)
    return (*notes, *list_slice_notes(model.config, model.slice))


def _write_file(path: Path, content: bytes) -> FileEntry:
    _write_synced(path, content)
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


def _write_synced(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
