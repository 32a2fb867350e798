"""Generated checkpoints for the benchmarks on a GPU: at production widths, or small."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ci.models import load_models
from tests.standin.models import build, build_full_size, repository
from tests.standin.recipes import CONFIGS, RECIPES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standin.server import HubServer


def serve_full_size(
    hub: HubServer, name: str, directory: Path, *, device: str, keys: dict[str, Any], head_dim: bool, drop: list[str]
) -> None:
    """Generate an entry's model at two layers in the new `directory`, and serve it.

    `keys` are added to its config.json, and those in `drop` are taken out. `head_dim` writes that key where the
    published config leaves it out. All three are for a subject that refuses a config as it is published.
    """
    model_id = load_models()[name].model_id
    build_full_size(find_config(model_id), directory, device=device)
    _edit_keys(directory / "config.json", keys, head_dim=head_dim, drop=drop)
    hub.add(model_id, directory)


WHOLE_BLOCKS = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
"""Sizes that block-sparse kernels take: multiples of 128, and heads of 64."""


def serve_small(
    hub: HubServer, name: str, directory: Path, *, head_dim: bool, drop: list[str], whole_blocks: bool = False
) -> None:
    """Write the small model of an entry to the new `directory`, and serve it.

    Its sizes are odd ones, or with `whole_blocks` those of WHOLE_BLOCKS.
    """
    model_id = load_models()[name].model_id
    if whole_blocks:
        recipe = RECIPES[model_id]
        build(replace(recipe, changes={**recipe.changes, **WHOLE_BLOCKS}), directory)
    else:
        shutil.copytree(repository(model_id), directory)
    _edit_keys(directory / "config.json", {}, head_dim=head_dim, drop=drop)
    hub.add(model_id, directory)


def _edit_keys(path: Path, keys: dict[str, Any], *, head_dim: bool, drop: list[str]) -> None:
    config = {key: value for key, value in json.loads(path.read_bytes()).items() if key not in drop} | keys
    if head_dim:
        config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def find_config(model_id: str) -> str:
    """Return the name of the production config of a model: its own, or that of a variant with the same shapes.

    Raises LookupError where there is none.
    """
    name = model_id.split("/")[1]
    found = sorted(path.stem for path in CONFIGS.glob("*.json") if path.stem.startswith(name))
    if not found:
        raise LookupError(f"{model_id}: no production config in {CONFIGS}")
    return found[0]
