"""Checks of a truncated checkpoint, and the dtype that it was published in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ci.hub.fetch import Checkpoint

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_DEPTH_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")


def find_checkpoint_problems(checkpoint: Checkpoint) -> list[str]:
    """Return the problems of a truncated checkpoint: depth in config.json, missing files, layers on disk."""
    root = Path(checkpoint.path)
    config = json.loads((root / "config.json").read_bytes())
    manifest = json.loads((root / "hub-tests.json").read_bytes())
    text = config.get("text_config", config)
    text = {**text, **nested} if isinstance(nested := text.get("decoder"), dict) else text
    depth = next((text[key] for key in _DEPTH_KEYS if key in text), None)
    problems = [] if depth == checkpoint.layers else [f"config.json says {depth} layers, kept are {checkpoint.layers}"]
    problems += _find_file_problems(root, manifest)
    return problems + _find_layer_problems(manifest, checkpoint.layers)


def read_published_dtype(checkpoint: Checkpoint) -> str:
    """Return the dtype that the checkpoint was published in, as its config.json says."""
    from ci.equivalence import inputs

    return inputs.read_published_dtype(json.loads((Path(checkpoint.path) / "config.json").read_bytes()))


def _find_file_problems(root: Path, manifest: dict[str, Any]) -> list[str]:
    return [
        f"{name} is missing or not {facts['size']} bytes long"
        for name, facts in manifest["files"].items()
        if not (root / name).is_file() or (root / name).stat().st_size != facts["size"]
    ]


def _find_layer_problems(manifest: dict[str, Any], layers: int) -> list[str]:
    stored = {int(match[1]) for name in manifest["tensors"] if (match := _LAYER.search(name)) and "vision" not in name}
    expected = set(range(layers))
    return [] if stored == expected else [f"layers on disk are {sorted(stored)}, expected {sorted(expected)}"]
