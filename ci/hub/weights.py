"""Find the tensors of a repository in its index and headers, and select those that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError, RequestError
from ci.hub.download_plan import TensorSource
from ci.hub.header import Header, find_header_end, parse_header
from ci.hub.layers import (
    LayerChoice,
    LayerPrefixes,
    classify_layers,
    count_layers_for_all_kinds,
    describe_missed_kinds,
    find_layers,
    make_choice,
    split_layer_name,
)
from ci.hub.model_config import ModelConfig
from ci.hub.remote import HubClient
from ci.hub.repository import Repository, is_safe_path
from ci.hub.responses import RefusedError
from ci.hub.slices import WHOLE, Slice, make_slice_rules
from ci.hub.strict_json import parse_object
from ci.hub.truncation import count_required_layers, list_layer_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.hub.header import TensorInfo
    from ci.hub.layers import LayerRequest

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH_BIN, TORCH_BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
MAX_INDEX_SIZE = 64 * 1024**2
HEADER_PROBE = 128 * 1024
"""Bytes of a shard in its first request: nearly every header is shorter."""
USUAL_LAYERS = 2
"""The usual count of layers; with "auto" the result names the kinds of layer that it would have missed."""


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold a repository's tensors.

    `weight_map` maps tensor names to files. It is None for a single file without an index: its header is the list.
    """

    files: tuple[str, ...]
    weight_map: Mapping[str, str] | None
    is_torch_bin: bool


@dataclass(frozen=True)
class RemoteModel:
    """A repository on the Hub, its parsed config.json and its weight files; no tensor is known yet.

    `slice` is the part of the vocabulary and of the experts that is kept.
    """

    hub: HubClient
    repository: Repository
    config: ModelConfig
    weights: WeightFiles
    slice: Slice = WHOLE


@dataclass(frozen=True)
class TensorSelection:
    """The kept layers and tensors. `dropped` names what is dropped although it belongs to no dropped layer.

    `headers` are those of the safetensors files that were read.
    """

    choice: LayerChoice
    sources: tuple[TensorSource, ...]
    dropped: tuple[str, ...] = ()
    headers: Mapping[str, Header] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all kept tensors."""
        return sum(source.end - source.begin for source in self.sources)


def find_weight_files(hub: HubClient, repository: Repository) -> WeightFiles:
    """Find the weight files, in the order of preference of transformers."""
    for single, index, is_torch_bin in ((SAFETENSORS, SAFETENSORS_INDEX, False), (TORCH_BIN, TORCH_BIN_INDEX, True)):
        if single in repository.files:
            return WeightFiles((single,), None, is_torch_bin)
        if index in repository.files:
            text = hub.read_file(repository, index, limit=MAX_INDEX_SIZE)
            weight_map = parse_weight_map(text, repository, index, suffix=single.rpartition(".")[2])
            return WeightFiles(tuple(sorted(set(weight_map.values()))), weight_map, is_torch_bin)
    endings = sorted({name.rpartition(".")[2] for name in repository.files if "." in name})
    raise RequestError(
        f"{repository.model_id}@{repository.commit[:8]} has neither {SAFETENSORS} nor {TORCH_BIN}, nor an index of "
        f"them; its files end in: {', '.join(endings)[:200]}; choose a repository with transformers weights"
    )


def parse_weight_map(text: bytes, repository: Repository, path: str, *, suffix: str) -> dict[str, str]:
    """Return the index's map of tensor names to files.

    Raises InfrastructureError for a name that is not a file of the repository.
    """
    what = repository.label(path)
    weight_map = parse_object(text, what=what).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InfrastructureError(f"{what}: has no weight_map; report it to the owner of the model")
    for name, file in weight_map.items():
        where = f"{what}: tensor {name[:100]!r} is in {str(file)[:100]!r}"
        if not isinstance(file, str) or not is_safe_path(file) or not file.endswith(f".{suffix}"):
            raise InfrastructureError(f"{where}, which is not a valid name of a .{suffix} file; report it to its owner")
        if file not in repository.files:
            raise InfrastructureError(f"{where}, which the repository lacks; report it to the owner of the model")
    return weight_map


@dataclass(frozen=True)
class KeptSources:
    """The tensors of the kept layers, whole and under their names on the Hub; `names` are those of all tensors.

    `headers` are those of the safetensors files that were read.
    """

    choice: LayerChoice
    prefixes: LayerPrefixes
    sources: tuple[TensorSource, ...]
    names: tuple[str, ...]
    headers: Mapping[str, Header] = field(default_factory=dict)


def select_tensors(model: RemoteModel, layers: LayerRequest) -> TensorSelection:
    """Select the kept tensors of a safetensors repository.

    Reads the headers of the shards with kept tensors; for "auto" those of all shards.
    """
    return place_tensors(model, find_kept_sources(model, layers))


def find_kept_sources(model: RemoteModel, layers: LayerRequest) -> KeptSources:
    """Find the tensors of the kept layers in the headers of their shards."""
    hub, repository, weights = model.hub, model.repository, model.weights
    if weights.weight_map is None:
        headers = read_headers(hub, repository, weights.files)
        files = {tensor.name: weights.files[0] for tensor in headers[weights.files[0]].tensors}
    else:
        headers, files = {}, dict(weights.weight_map)
    prefixes = find_model_layers(files, model.config)
    if layers == "auto":
        headers = read_headers(hub, repository, weights.files, headers)
        choice = choose_layers(prefixes, model.config, _find_tensors(files, headers, repository))
    else:
        choice = make_choice(layers)
    positions = choice.positions
    kept = {name: file for name, file in files.items() if prefixes.place(name, positions) is not None}
    headers = read_headers(hub, repository, sorted(set(kept.values())), headers)
    tensors = _find_tensors(kept, headers, repository)
    sources = (_make_source(file, headers[file], tensors[name]) for name, file in kept.items())
    return KeptSources(choice, prefixes, tuple(sources), tuple(files), headers)


def find_model_layers(names: Iterable[str], config: ModelConfig) -> LayerPrefixes:
    """Find the layers among a model's tensors, by its config and its architecture's record."""
    items = config.architecture.items
    listed = [field.value for field in config.fields if items and field.path[-1] == items.field]
    item_layers = tuple(index for value in listed[:1] for index in value if type(index) is int)
    return find_layers(
        names,
        config.stacks,
        what=config.what,
        architecture=config.architecture,
        mtp_layers=config.mtp_layers,
        item_layers=item_layers,
    )


def place_tensors(model: RemoteModel, kept: KeptSources) -> TensorSelection:
    """Give the kept tensors their names in the truncated model, and cut them to the slice.

    What is beside the layers is named in the result.
    """
    rules, prefixes, positions = make_slice_rules(model.config, model.slice), kept.prefixes, kept.choice.positions
    placed = []
    for source in kept.sources:
        old = source.tensor.name
        in_layer = split_layer_name(old)[0] in prefixes.prefixes
        tensor = rules.cut(old, source.tensor, in_layer=in_layer)
        name = prefixes.place(old, positions)
        if tensor is not None and name is not None:
            end = source.begin + tensor.size
            placed.append(replace(source, tensor=replace(tensor, name=name), end=end, upstream_name=old))
    return TensorSelection(kept.choice, tuple(placed), prefixes.list_dropped(kept.names), kept.headers)


def choose_layers(prefixes: LayerPrefixes, config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> LayerChoice:
    """Choose the fewest layers that hold every kind of layer and can be run alone."""
    kinds = classify_layers(tensors, prefixes, list_layer_settings(config))
    layers = count_required_layers(config, count_layers_for_all_kinds(kinds))
    return LayerChoice(layers, describe_missed_kinds(kinds, USUAL_LAYERS))


def read_headers(
    hub: HubClient, repository: Repository, files: Iterable[str], known: Mapping[str, Header] | None = None
) -> dict[str, Header]:
    """Read and check the headers of these shards in parallel.

    Those in `known` are not requested again.
    """
    known = known or {}
    missing = [file for file in files if file not in known]
    headers = hub.map_parallel(lambda file: _read_header(hub, repository, file), missing)
    return {**known, **dict(zip(missing, headers, strict=True))}


def make_missing_tensor_error(repository: Repository, file: str, name: str) -> InfrastructureError:
    """Return the error for a file that lacks a tensor of the index."""
    return InfrastructureError(
        f"{repository.label(file)}: lacks tensor {name[:200]!r}, which the index puts there; "
        "report it to the owner of the model"
    )


def _read_header(hub: HubClient, repository: Repository, file: str) -> Header:
    """Read a shard's header. A malformed one is read again: it may have been damaged on the way."""
    size, what = repository.get_file(file).size, repository.label(file)

    def read() -> Header:
        data = hub.read_range(repository, file, 0, min(HEADER_PROBE, size))
        try:
            end = find_header_end(data, size, what=what)
        except InfrastructureError as problem:
            raise RefusedError(problem) from None
        if end > len(data):
            data += hub.read_range(repository, file, len(data), end)
        try:
            return parse_header(data, size, what=what)
        except InfrastructureError as problem:
            raise RefusedError(problem) from None

    return hub.repeat_if_malformed(read, what)


def _find_tensors(
    files: Mapping[str, str], headers: Mapping[str, Header], repository: Repository
) -> dict[str, TensorInfo]:
    """Find each tensor in the shard that the index names.

    Raises InfrastructureError where the shard lacks it.
    """
    by_file = {file: {tensor.name: tensor for tensor in headers[file].tensors} for file in set(files.values())}
    for name, file in files.items():
        if name not in by_file[file]:
            raise make_missing_tensor_error(repository, file, name)
    return {name: by_file[file][name] for name, file in files.items()}


def _make_source(file: str, header: Header, tensor: TensorInfo) -> TensorSource:
    return TensorSource(file, tensor, header.data_start + tensor.begin, header.data_start + tensor.end)
