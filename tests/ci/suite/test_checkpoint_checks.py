from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ci.hub.fetch import Checkpoint
from ci.suite.checkpoint_checks import find_checkpoint_problems, read_published_dtype

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("model.embed_tokens.weight", "model.layers.0.q.weight", "model.layers.1.q.weight", "vision.layers.7.q.weight")


def checkpoint_in(folder: Path, depth: int = 2, names: tuple[str, ...] = NAMES) -> Checkpoint:
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": depth}))
    (folder / "weights").write_bytes(b"1234")
    manifest = {"files": {"weights": {"size": 4}}, "tensors": {name: {} for name in names}}
    (folder / "hub-tests.json").write_text(json.dumps(manifest))
    return Checkpoint("o/n", "f" * 40, 2, str(folder), "hit", 10, 0, 0, 0.1, "a" * 64, 30)


def test_a_sound_checkpoint_has_no_problem(tmp_path: Path) -> None:
    assert find_checkpoint_problems(checkpoint_in(tmp_path)) == []


def test_depth_of_a_text_config_counts(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"n_layer": 3}}))
    assert find_checkpoint_problems(checkpoint) == ["config.json says 3 layers, kept are 2"]


@pytest.mark.parametrize("names", [NAMES[:2], (*NAMES, "model.layers.2.q.weight")])
def test_a_missing_or_extra_layer_is_a_problem(tmp_path: Path, names: tuple[str, ...]) -> None:
    (problem,) = find_checkpoint_problems(checkpoint_in(tmp_path, names=names))
    assert problem.startswith("layers on disk are ")
    assert problem.endswith(", expected [0, 1]")


def test_a_file_of_another_size_is_a_problem(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path)
    (tmp_path / "weights").write_bytes(b"12")
    assert find_checkpoint_problems(checkpoint) == ["weights is missing or not 4 bytes long"]


@pytest.mark.parametrize(
    ("config", "dtype"),
    [({"torch_dtype": "bfloat16"}, "bfloat16"), ({"dtype": "float16"}, "float16"), ({}, "float32")],
)
def test_the_published_dtype_is_the_configs(tmp_path: Path, config: dict[str, str], dtype: str) -> None:
    checkpoint = checkpoint_in(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_published_dtype(checkpoint) == dtype
