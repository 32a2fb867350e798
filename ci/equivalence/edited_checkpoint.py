"""A checkpoint with another config.json: the weights are linked, not copied."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LINKED = ("*.safetensors*", "generation_config.json", "*.py", "tokenizer.json")


def copy_with_config(checkpoint: Path, directory: Path, config: Mapping[str, Any]) -> Path:
    """Make `directory` (must not exist) with the checkpoint's weights and this config.json. Returns it."""
    directory.mkdir(parents=True)
    for pattern in LINKED:
        for file in checkpoint.glob(pattern):
            (directory / file.name).symlink_to(file.resolve())
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory
