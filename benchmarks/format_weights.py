"""Writes the repository of one model of a format: its config.json, weights and companion files."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

from ci.subjects.hugging_face import HuggingFace
from ci.subjects.hugging_face.code_source import ModelCodeSource
from ci.subjects.hugging_face.worker import HuggingFaceWorker, open_hugging_face
from tests.standin.models import build, repository, write_companions, write_json
from tests.standin.quantized import write_fp8
from tests.standin.recipes import Recipe
from tests.standin.weights import Shapes, make_tensor, tensor_shapes, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.format_model import FormatModel
    from ci.subjects.sandbox import Isolation


def write_model(model: FormatModel, folder: Path, checkout: Path, isolation: Isolation, python: Path | None) -> Path:
    """Write the model's repository below `folder` and return it.

    `python` is the interpreter of its `code_environment`, in whose sandbox the modelling code draws the weights.
    """
    if isinstance(model.recipe, Recipe):
        built = build(model.recipe, folder / model.name)
        return write_fp8(built, folder / f"{model.name}-codes", model.fp8_block) if model.fp8_block else built
    if model.recipe:
        return repository(model.recipe)
    config, target = dict(model.config), folder / model.name
    if model.by_name:
        _write_by_name(config, target)
    else:
        (source := folder / f"{model.name}-config").mkdir(parents=True)
        write_json(source / "config.json", config)
        with _open_code(model, checkout, isolation, python) as code:
            code.write_model(str(source), str(target), "bfloat16", 0)
    write_companions(target, model.model_id, config)
    for file in (checkout / model.code_path).glob("*.py") if model.carries_code else ():
        shutil.copyfile(file, target / file.name)
    return target


def _write_by_name(config: dict[str, Any], target: Path) -> None:
    target.mkdir(parents=True)
    shapes = make_hybrid_shapes(config)
    write_checkpoint(target, shapes, partial(_make_named, shapes), dtype="bfloat16", shard_bytes=10**9)
    write_json(target / "config.json", config)


def _open_code(
    model: FormatModel, checkout: Path, isolation: Isolation, python: Path | None
) -> AbstractContextManager[HuggingFace | HuggingFaceWorker]:
    """Open what has the model's code: our own transformers, or the checkout's code in its environment."""
    if python is None:
        return HuggingFace()
    return open_hugging_face(python, ModelCodeSource(checkout / model.code_path, "the checkout"), isolation)


def make_hybrid_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the shapes of a model with Mamba-2 blocks among attention, by Fast-LLM's names."""
    text = {"model_type": "mistral", **(config.get("text_config") or config), "tie_word_embeddings": False}
    plain = {**text, "model_type": "mistral"}
    shapes = tensor_shapes({**config, "text_config": plain} if "text_config" in config else plain)
    prefix = "language_model.model.layers" if "text_config" in config else "model.layers"
    for layer, kind in enumerate(text["hybrid_block_layout"]):
        if kind == "m2":
            attention = f"{prefix}.{layer}.self_attn."
            shapes = {name: shape for name, shape in shapes.items() if not name.startswith(attention)}
            mamba = _list_mamba_shapes(text["hidden_size"], text["ssm_cfg"])
            shapes |= {f"{prefix}.{layer}.mixer.{name}": shape for name, shape in mamba.items()}
    return shapes


def _list_mamba_shapes(hidden: int, ssm: Mapping[str, Any]) -> Shapes:
    inner, narrow, rank = ssm["d_inner"], ssm["d_xb"], ssm["dt_rank"]
    return {
        "A_log": (inner, ssm["d_state"]),
        "D": (inner,),
        "conv1d.weight": (inner, 1, ssm["d_conv"]),
        "conv1d.bias": (inner,),
        "in_proj.weight": (2 * narrow + 2 * inner, hidden),
        "dt_in_proj.weight": (rank, hidden),
        "dt_proj.weight": (inner, rank),
        "dt_proj.bias": (inner,),
        "out_proj.weight": (hidden, inner),
    }


def _make_named(shapes: Shapes, name: str) -> Any:
    return make_tensor(name, shapes[name], 0)
