"""Large repositories for measuring transfers: real shapes, real headers, and holes where the numbers would be."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

from ci.hub.header import TensorInfo, count_tensor_bytes, write_header
from tests.standin.recipes import RECIPES
from tests.standin.weights import Shapes, shard_header, shards, tensor_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.standin.server import HubServer

MODEL_ID = "benchmarks/llama"
LAYER_BYTES = 134_225_920
"""Of the model below, in bfloat16."""


def config(layers: int) -> dict[str, Any]:
    """Return a Llama config: 134 MB a layer, 131 MB each for embeddings and head."""
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "vocab_size": 32000, "num_attention_heads": 16}
    return {
        **RECIPES["stand-in/llama"].config,
        **sizes,
        "num_key_value_heads": 16,
        "num_hidden_layers": layers,
        "max_position_embeddings": 4096,
    }


def layers_for(size: int) -> int:
    """Return the number of layers that makes a repository of about `size` bytes."""
    return max(round((size - 2 * 131_072_000) / LAYER_BYTES), 1)


def add_sparse(hub: HubServer, directory: Path, layers: int, shard_bytes: int) -> int:
    """Serve config, index and sparse shards; return the bytes of the tensors.

    The disk stores no sparse bytes, but the socket carries them.
    """
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config(layers), indent=2))
    shapes = tensor_shapes(config(layers))
    parts = shards(shapes, "bfloat16", shard_bytes)
    weight_map: dict[str, str] = {}
    digests: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        digests[file] = _write_holes(directory / file, part)
        weight_map |= dict.fromkeys(part, file)
    total = _bytes(shapes)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.add(MODEL_ID, directory, digests=digests)
    return total


def add_shapes(
    hub: HubServer, directory: Path, tensors: Mapping[str, tuple[tuple[int, ...], str]], layers: int, count: int
) -> list[Path]:
    """Serve tensors, of shape and dtype, in their order in `count` shards of zeros; return the shards."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config(layers), indent=2))
    names, files = list(tensors), []
    weight_map: dict[str, str] = {}
    for number in range(count):
        part = names[number * len(names) // count : (number + 1) * len(names) // count]
        files.append(directory / f"model-{number + 1:05}-of-{count:05}.safetensors")
        entries, at = [], 0
        for name in part:
            shape, dtype = tensors[name]
            size = count_tensor_bytes(dtype, shape) or 0
            entries.append(TensorInfo(name, dtype, shape, at, at + size))
            at += size
        files[-1].write_bytes(write_header(entries, {"format": "pt"}) + bytes(at))
        weight_map |= dict.fromkeys(part, files[-1].name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    hub.add(MODEL_ID, directory)
    return files


def _write_holes(path: Path, part: Shapes) -> str:
    """Write a shard of zeros that takes no space; return its SHA-256."""
    header = shard_header(dict(sorted(part.items())), "bfloat16")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + _bytes(part))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes(shapes: Shapes) -> int:
    return 2 * sum(math.prod(shape) for shape in shapes.values())
