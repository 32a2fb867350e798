"""From a repository's index and headers to the tensors that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ci.errors import InfrastructureError, RequestError
from ci.hub import layers as layering
from ci.hub.header import Header, header_end, parse_header
from ci.hub.layers import Auto
from ci.hub.listing import is_safe
from ci.hub.ranges import Source
from ci.hub.strict_json import parse_object
from ci.hub.truncation import layer_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.hub.header import Tensor
    from ci.hub.listing import Repository
    from ci.hub.model_config import Config
    from ci.hub.remote import Hub

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
MAX_INDEX = 64 * 1024**2
PROBE = 128 * 1024
"""Bytes of a shard that are asked for first: nearly every header is shorter."""


@dataclass(frozen=True)
class Weights:
    """Where a repository's tensors are: their names to files, and whether those are pickled.

    `weight_map` is None when there is one file without an index: its own header is the list.
    """

    files: tuple[str, ...]
    weight_map: Mapping[str, str] | None
    pickled: bool


@dataclass(frozen=True)
class Selection:
    """What is kept: layers, tensors; and how many tensors went because they only predict further tokens."""

    auto: Auto
    sources: tuple[Source, ...]
    mtp: int


def find_weights(hub: Hub, repository: Repository) -> Weights:
    """The weights in the format and order of preference in which transformers would take them."""
    for single, index, pickled in ((SAFETENSORS, SAFETENSORS_INDEX, False), (PICKLED, PICKLED_INDEX, True)):
        if single in repository.files:
            return Weights((single,), None, pickled)
        if index in repository.files:
            text = hub.read(repository, index, limit=MAX_INDEX)
            weight_map = parse_weight_map(text, repository, index, suffix=single.rpartition(".")[2])
            return Weights(tuple(sorted(set(weight_map.values()))), weight_map, pickled)
    kinds = sorted({name.rpartition(".")[2] for name in repository.files if "." in name})
    raise RequestError(
        f"{repository.model_id}@{repository.commit[:8]} has neither {SAFETENSORS} nor {PICKLED}, nor an index of them; "
        f"its files end in: {', '.join(kinds)[:200]}"
    )


def parse_weight_map(text: bytes, repository: Repository, path: str, *, suffix: str) -> dict[str, str]:
    """The index's tensor names to file names. Raises InfrastructureError where one is no file of the repository."""
    what = repository.label(path)
    weight_map = parse_object(text, what=what).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InfrastructureError(f"{what}: no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not is_safe(file) or not file.endswith(f".{suffix}"):
            raise InfrastructureError(
                f"{what}: tensor {name[:100]!r} is in {str(file)[:100]!r}, no file name to follow"
            )
        if file not in repository.files:
            raise InfrastructureError(f"{what}: tensor {name[:100]!r} is in {file[:100]!r}, which the repository lacks")
    return weight_map


def select(
    hub: Hub, repository: Repository, config: Config, weights: Weights, wanted: int | Literal["auto"]
) -> Selection:
    """The kept tensors of a safetensors repository: headers of touched shards are read, of all for "auto"."""
    if weights.weight_map is None:
        headers = read_headers(hub, repository, weights.files)
        names = {tensor.name: weights.files[0] for tensor in headers[weights.files[0]].tensors}
    else:
        headers, names = {}, dict(weights.weight_map)
    found = layering.find_layers(names, config.stacks, what=config.what)
    if wanted == "auto":
        headers = read_headers(hub, repository, weights.files, headers)
        auto = choose(found, config, _tensors(names, headers, repository))
    else:
        auto = Auto(wanted, ())
    kept = {name: file for name, file in names.items() if found.keeps(name, auto.layers)}
    headers = read_headers(hub, repository, sorted(set(kept.values())), headers)
    tensors = _tensors(kept, headers, repository)
    sources = (_source(file, headers[file], tensors[name]) for name, file in kept.items())
    return Selection(auto, tuple(sources), found.mtp(names))


def choose(found: layering.Layers, config: Config, tensors: Mapping[str, Tensor]) -> Auto:
    """The fewest layers that hold every kind, and the kinds that two layers would have missed."""
    kinds = layering.kinds(tensors, found, layer_settings(config))
    return Auto(layering.fewest(kinds), layering.missed(kinds, 2))


def read_headers(
    hub: Hub, repository: Repository, files: Iterable[str], known: Mapping[str, Header] | None = None
) -> dict[str, Header]:
    """Headers of these shards, validated, a few at a time; those in `known` are not asked for again."""
    known = known or {}
    missing = [file for file in files if file not in known]
    read = hub.each(lambda file: _read_header(hub, repository, file), missing)
    return {**known, **dict(zip(missing, read, strict=True))}


def _read_header(hub: Hub, repository: Repository, file: str) -> Header:
    size, what = repository.file(file).size, repository.label(file)
    data = hub.read_range(repository, file, 0, min(PROBE, size))
    end = header_end(data, size, what=what)
    if end > len(data):
        data += hub.read_range(repository, file, len(data), end)
    return parse_header(data, size, what=what)


def _tensors(names: Mapping[str, str], headers: Mapping[str, Header], repository: Repository) -> dict[str, Tensor]:
    """Tensors by name, from the shard that the index says. Raises InfrastructureError where the shard lacks one."""
    by_file = {file: {tensor.name: tensor for tensor in headers[file].tensors} for file in set(names.values())}
    for name, file in names.items():
        if name not in by_file[file]:
            raise InfrastructureError(
                f"{repository.label(file)}: lacks tensor {name[:200]!r}, which the index puts there"
            )
    return {name: by_file[file][name] for name, file in names.items()}


def _source(file: str, header: Header, tensor: Tensor) -> Source:
    return Source(file, tensor, header.data_start + tensor.begin, header.data_start + tensor.end)
