"""Reads and writes checkpoint directories: Hugging Face's, and Fast-LLM's `fast_llm` format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from ci.errors import InfrastructureError, SubjectError, UnsupportedError
from ci.hub.strict_json import parse_object
from ci.subjects.reference.config import Architecture
from ci.subjects.reference.config_json_formats import read_any_config
from ci.subjects.reference.convert import list_parameters, stored_name
from ci.subjects.reference.metadata_yaml import read_base_model
from ci.subjects.reference.metadata_yaml_write import write_base_model
from ci.subjects.reference.tensor_files import (
    PlannedTensor,
    TensorFiles,
    check_tensors,
    open_tensors,
    split_files,
    write_tensors,
)
from ci.subjects.reference.weight_names import WeightNames, find_weight_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.subjects.reference.parameter import Parameter


VERSION: Final = "0.4.0"
"""The Fast-LLM version of the written format; Fast-LLM refuses a checkpoint that is newer than itself."""

FILE_ELEMENTS: Final = 2**32
"""Fast-LLM's parameters_per_file."""

MODELS: Final = ("gpt", "multimodal")
"""Fast-LLM's classes of models: without and with images."""
SHARD_BYTES: Final = 5 * 10**9
INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
METADATA: Final = "metadata.yaml"
OK_FILE: Final = "ok"
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DUMPER: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a directory: architecture, parameters, and the original config.json ({}: unknown).

    `names` are those of its tensors in a Hugging Face directory.
    """

    path: Path
    architecture: Architecture
    original: Mapping[str, Any] = field(default_factory=dict)
    names: WeightNames = field(default_factory=WeightNames)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every Fast-LLM parameter, in execution order."""
        return tuple(list_parameters(self.architecture, self.names))


def read_huggingface(path: Path, checkpoint_format: str) -> Checkpoint:
    """Read config.json. Raises SubjectError or UnsupportedError."""
    config = _read_json(path / "config.json")
    architecture = read_any_config(config, checkpoint_format, where=f"{path.name}/config.json")
    return Checkpoint(path, architecture, config, find_weight_names(checkpoint_format))


def open_huggingface(checkpoint: Checkpoint) -> TensorFiles:
    """Open the tensors of a Hugging Face directory; checks that they are exactly the architecture's."""
    path, names = checkpoint.path, checkpoint.names
    tensors = open_tensors(path, [SINGLE] if (path / SINGLE).is_file() else _read_index(path))
    expected = {part.name: part.shape for p in checkpoint.parameters for part in p.parts}
    stored = {name: at for name, at in tensors.stored.items() if not _is_rotary_buffer(name, checkpoint.architecture)}
    tied = checkpoint.architecture.tied and names.head in stored
    redundant = {names.head: expected[names.embeddings]} if tied else {}
    check_tensors(TensorFiles(stored), expected | redundant, path)
    if redundant:
        _check_tied(tensors, path, names)
    return TensorFiles({name: at for name, at in stored.items() if name not in redundant})


def _read_index(path: Path) -> set[str]:
    if not (path / INDEX).is_file():
        raise SubjectError(f"{path} has neither {SINGLE} nor {INDEX}")
    weight_map = _read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise SubjectError(f"{path / INDEX}: weight_map must map tensors to files")
    return {*weight_map.values()}


def _is_rotary_buffer(name: str, architecture: Architecture) -> bool:
    """Return whether a tensor is a frequency table of old transformers.

    They saved one in each layer; no version reads it.
    """
    layers = range(len(architecture.blocks))
    return any(name == f"model.layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in layers)


def _check_tied(tensors: TensorFiles, path: Path, names: WeightNames) -> None:
    """Raise UnsupportedError for a tied head that differs from the embeddings.

    transformers drops a stored head that equals the tied embeddings, and unties them otherwise.
    """
    with tensors:
        pairs = zip(tensors.read_blocks(names.embeddings), tensors.read_blocks(names.head), strict=True)
        if not all(bool((embeddings == head).all()) for embeddings, head in pairs):
            raise UnsupportedError(
                f"{path}: tie_word_embeddings is true, but {names.head!r} differs from the embeddings"
            )


def read_fast_llm(path: Path, checkpoint_format: str = "") -> Checkpoint:
    """Read metadata.yaml of a finished `fast_llm` directory. Raises SubjectError or UnsupportedError.

    The format is that of the Hugging Face directory whose names the parameters get.
    """
    tree = _read_metadata(path)
    if tree.get("format") != "fast_llm" or tree.get("model") not in MODELS:
        raise UnsupportedError(f"{path / METADATA}: format {tree.get('format')!r} of model {tree.get('model')!r}")
    config = tree.get("config")
    base_model = config.get("base_model") if isinstance(config, dict) else None
    architecture = read_base_model(base_model, where=f"{path.name}/{METADATA}")
    extra = tree.get("metadata")
    original = extra.get("huggingface_config") if isinstance(extra, dict) else None
    names = find_weight_names(checkpoint_format)
    return Checkpoint(path, architecture, original if isinstance(original, dict) else {}, names)


def open_fast_llm(checkpoint: Checkpoint) -> TensorFiles:
    """Open the weights of a `fast_llm` directory; checks that they are exactly the architecture's.

    Optimizer state is ignored.
    """
    path = checkpoint.path
    index = (_read_metadata(path).get("metadata") or {}).get("state_index")
    if not isinstance(index, dict) or not index or not all(isinstance(name, str) for name in index.values()):
        raise SubjectError(f"{path / METADATA}: metadata.state_index must map tensors to files")
    stored = open_tensors(path, index.values()).stored
    for name, at in stored.items():
        if index.get(name) != at.path.name:
            raise SubjectError(f"{path / METADATA}: state_index says {index.get(name)} for {name!r} in {at.path.name}")
    tensors = TensorFiles({name: at for name, at in stored.items() if name.endswith("/weights")})
    check_tensors(tensors, {stored_name(p): p.shape for p in checkpoint.parameters}, path)
    return tensors


def _read_metadata(path: Path) -> dict[str, Any]:
    if not (path / OK_FILE).is_file():
        raise SubjectError(f"{path} is not a finished checkpoint: it has no {OK_FILE!r} file")
    try:
        tree = yaml.load((path / METADATA).read_text(encoding="utf-8"), Loader=LOADER)  # noqa: S506 (a safe one)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as problem:
        raise SubjectError(f"{path / METADATA} cannot be read: {' '.join(str(problem).split())}"[:400]) from None
    if not isinstance(tree, dict):
        raise SubjectError(f"{path / METADATA} must be a mapping")
    return tree


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return parse_object(path.read_bytes(), what=str(path))
    except OSError as problem:
        raise SubjectError(f"{path} cannot be read: {problem.strerror}") from None
    except InfrastructureError as problem:
        raise SubjectError(str(problem)) from None


def write_fast_llm(path: Path, checkpoint: Checkpoint, planned: Iterable[PlannedTensor]) -> None:
    """Write a checkpoint in Fast-LLM's own layout: float32 weights, metadata.yaml, then the empty `ok`."""
    index: dict[str, str] = {}
    for number, file in enumerate(split_files(planned, FILE_ELEMENTS)):
        name = f"model_{number}.safetensors"
        write_tensors(path / name, file, "F32")
        index |= {tensor.name: name for tensor in file}
    model = MODELS[checkpoint.architecture.vision is not None]
    tree = {
        "config": {"type": model, "base_model": write_base_model(checkpoint.architecture)},
        "fast_llm_version": VERSION,
        "format": "fast_llm",
        "metadata": {"state_index": index, "huggingface_config": dict(checkpoint.original)},
        "model": model,
        "shards": ["weights"],
    }
    (path / METADATA).write_text(yaml.dump(tree, Dumper=DUMPER), encoding="utf-8")
    (path / OK_FILE).touch()


def write_huggingface(path: Path, config: Mapping[str, Any], planned: Iterable[PlannedTensor], dtype: str) -> None:
    """Write a checkpoint in the layout of transformers.

    One file up to SHARD_BYTES, else shards and an index.
    """
    files = split_files(planned, SHARD_BYTES // (4 if dtype == "F32" else 2))
    if len(files) == 1:
        write_tensors(path / SINGLE, files[0], dtype)
    else:
        _write_shards(path, files, dtype)
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_shards(path: Path, files: list[list[PlannedTensor]], dtype: str) -> None:
    weight_map: dict[str, str] = {}
    size = 0
    for number, file in enumerate(files, 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        write_tensors(path / name, file, dtype)
        size += sum(tensor.elements for tensor in file) * (4 if dtype == "F32" else 2)
        weight_map |= {tensor.name: name for tensor in file}
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (path / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
