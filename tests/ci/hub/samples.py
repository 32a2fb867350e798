"""Tiny repositories of made-up models: real files of the real formats, no tensor library needed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.hub.fetch import Checkpoint, FetchRequest
from ci.hub.header import DTYPE_BITS, TensorInfo, parse_header, write_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MODEL = "owner/model"
BIG = "big.safetensors"
"""A file that is long enough for reading past the HTTP library."""
REQUEST = FetchRequest(MODEL)
CONFIG = {"model_type": "llama", "num_hidden_layers": 5, "hidden_size": 8, "rms_norm_eps": 1e-05}


def layer_shapes(index: int, *, experts: int = 0, width: int = 8) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of one layer."""
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{index}.self_attn.q_proj.weight": (width, width),
        f"model.layers.{index}.input_layernorm.weight": (width,),
    }
    mlps = [f"mlp.experts.{n}.w1" for n in range(experts)] or ["mlp.up_proj"]
    return shapes | {f"model.layers.{index}.{name}.weight": (2 * width, width) for name in mlps}


def model_shapes(layers: int = 5) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a whole model."""
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32, 8)}
    for index in range(layers):
        tensors |= layer_shapes(index)
    return tensors | {"model.norm.weight": (8,), "lm_head.weight": (32, 8)}


def make_repository(
    directory: Path,
    *,
    tensors: Mapping[str, tuple[int, ...]] | None = None,
    shards: int = 3,
    config: Mapping[str, Any] | None = None,
    dtype: str = "BF16",
    seed: int = 0,
) -> Path:
    """Create a repository with config, weights in `shards` files (one: no index) and small files."""
    directory.mkdir(parents=True)
    tensors = dict(tensors or model_shapes())
    weight_map: dict[str, str] = {}
    names = list(tensors)
    for number in range(shards):
        part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        file = "model.safetensors" if shards == 1 else f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        write_shard(directory / file, {name: tensors[name] for name in sorted(part)}, dtype=dtype, seed=seed + number)
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        write_json(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    write_json(directory / "config.json", config or CONFIG)
    write_json(directory / "generation_config.json", {"eos_token_id": 2})
    write_json(directory / "tokenizer.json", {"version": "1.0"})
    write_json(directory / "tokenizer_config.json", {"added_tokens_decoder": {}})
    (directory / "modeling_custom.py").write_text("raise RuntimeError('remote code ran')\n")
    (directory / "README.md").write_text("# model\n")
    return directory


def write_shard(path: Path, tensors: Mapping[str, tuple[int, ...]], *, dtype: str = "BF16", seed: int = 0) -> None:
    """Write a safetensors file with random content."""
    at, made = 0, []
    for name, shape in tensors.items():
        size = DTYPE_BITS[dtype] // 8
        for length in shape:
            size *= length
        made.append(TensorInfo(name, dtype, shape, at, at + size))
        at += size
    path.write_bytes(write_header(made, {"format": "pt"}) + random.Random(seed).randbytes(at))


def read_tensors(paths: Iterable[Path]) -> dict[str, bytes]:
    """Return every tensor's bytes by name."""
    contents: dict[str, bytes] = {}
    for path in paths:
        content = path.read_bytes()
        header = parse_header(content, len(content), what=path.name)
        contents |= {t.name: content[header.data_start + t.begin : header.data_start + t.end] for t in header.tensors}
    return contents


def write_json(path: Path, value: Any) -> None:
    """Write JSON in the style of files on the Hub."""
    path.write_text(json.dumps(value, indent=2))


def upstream_tensors(repository: Path) -> dict[str, bytes]:
    """Return every tensor of a repository."""
    return read_tensors(sorted(repository.glob("*.safetensors")))


def first_layers(repository: Path, layers: int) -> dict[str, bytes]:
    """Return the tensors of a repository that belong to the first layers."""
    return {name: data for name, data in upstream_tensors(repository).items() if name in model_shapes(layers)}


def stored_tensors(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return every tensor of a fetched checkpoint."""
    return read_tensors(sorted(Path(checkpoint.path).glob("*.safetensors")))


def read_tree(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}
