"""Generated models as directories: what a Hub repository of that model looks like on disk."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.standin.recipes import CONFIGS, RECIPES, Recipe
from tests.standin.weights import DTYPES, Shapes, make_tensor, shards, tensor_shapes, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

CACHE = Path(__file__).parents[2] / ".cache" / "standin"
"""Inside the checkout and ignored by git."""
VERSION = 1
"""Raise it when what is written changes: the cache is keyed by it and by the recipe."""


def build(recipe: Recipe, directory: Path, seed: int = 0) -> Path:
    """Write the repository of `recipe` into the new `directory`; a pure function of recipe and seed."""
    directory.mkdir(parents=True)
    config = recipe.config
    write_json(directory / "config.json", config)
    write_companions(directory, recipe.model_id, config)
    shapes = tensor_shapes(config)
    read = partial(_make_tensor, shapes, seed)
    total = sum(math.prod(shape) for shape in shapes.values()) * DTYPES[recipe.dtype][0].itemsize
    if recipe.weights == "bin":
        _write_bin(directory, shapes, read, recipe)
    else:
        write_checkpoint(
            directory, shapes, read, dtype=recipe.dtype, shard_bytes=math.ceil(total / recipe.files * 1.05)
        )
    return directory


def build_full_size(
    upstream: str, directory: Path, *, layers: int = 2, seed: int = 0, shard_bytes: int = 5 * 10**9, device: str = "cpu"
) -> Path:
    """Write a model with the production shapes of `upstream`, a name in configs/, and `layers` layers.

    Mixtral-8x7B at two layers takes 6.3 GB of disk and about 1 GB of memory, whatever the number of layers.
    """
    config = json.loads((CONFIGS / f"{upstream}.json").read_text()) | {"num_hidden_layers": layers}
    directory.mkdir(parents=True)
    write_json(directory / "config.json", config)
    shapes = tensor_shapes(config)
    read = partial(_make_tensor, shapes, seed, device=device)
    write_checkpoint(directory, shapes, read, dtype=config["torch_dtype"], shard_bytes=shard_bytes)
    return directory


def write_once(name: str, write: Callable[[Path], object], cache: Path = CACHE) -> Path:
    """Return the directory `name` of the cache; write it, whole or not at all, if it is missing."""
    target = cache / name
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{name}.lock"):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}.") as scratch:
                write(Path(scratch) / "new")
                (Path(scratch) / "new").rename(target)
    return target


def repository(model_id: str, seed: int = 0, cache: Path = CACHE) -> Path:
    """Return the cached directory of a generated model."""
    recipe = RECIPES[model_id]
    digest = hashlib.sha256(f"{VERSION} {seed} {recipe} {recipe.config}".encode()).hexdigest()[:12]
    return write_once(
        f"{model_id.replace('/', '--')}-{digest}", lambda directory: build(recipe, directory, seed), cache
    )


def write_companions(directory: Path, model_id: str, config: dict[str, Any]) -> None:
    """Write the other files: generation config, byte-level tokenizer of 258 tokens, model card."""
    bos, eos = config["bos_token_id"], config["eos_token_id"]
    version = config["transformers_version"]
    generation = {"_from_model_config": True, "bos_token_id": bos, "eos_token_id": eos, "transformers_version": version}
    write_json(directory / "generation_config.json", generation)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*alphabet, "<s>", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    write_json(directory / "special_tokens_map.json", special)
    write_json(directory / "tokenizer_config.json", {**special, "tokenizer_class": "PreTrainedTokenizerFast"})
    card = f"# {model_id}, stood in for\n\nGenerated weights of awkward sizes: it has never seen a text.\n"
    (directory / "README.md").write_text(card)


def _make_tensor(shapes: Shapes, seed: int, name: str, device: str = "cpu") -> torch.Tensor:
    return make_tensor(name, shapes[name], seed, device)


def _write_bin(directory: Path, shapes: Shapes, read: Callable[[str], torch.Tensor], recipe: Recipe) -> None:
    """Write pickled shards with an index, as repositories older than safetensors have."""
    kind = DTYPES[recipe.dtype][0]
    total = sum(math.prod(shape) for shape in shapes.values()) * kind.itemsize
    parts = shards(shapes, recipe.dtype, math.ceil(total / recipe.files * 1.05))
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"pytorch_model-{number:05}-of-{len(parts):05}.bin"
        torch.save({name: read(name).to(kind) for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(directory / "pytorch_model.bin.index.json", index)


def write_json(path: Path, content: Any) -> None:
    """Write JSON as upstream's files look."""
    path.write_text(json.dumps(content, indent=2) + "\n")
