"""Each converted tensor is compared with the Hugging Face tensors that it must hold, and what is wrong is named."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.equivalence.converted_weights import find_wrong_tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.mutation.experiment import Experiment

Weights = dict[str, Any]
QUERY = "decoder.0.mixer.query.weight/weights"
HOLDS_NOT = "decoder.0.mixer.query.weight does not hold model.layers.0.self_attn.q_proj.weight"


def changed(experiment: Experiment, target: Path, change: Callable[[Weights], object]) -> Path:
    """A copy of the right conversion with changed tensors."""
    shutil.copytree(experiment.converted, target)
    file = next(target.glob("*.safetensors"))
    weights = load_file(file)
    change(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    return target


def test_a_right_conversion_has_no_wrong_tensor(dense: Experiment, moe: Experiment) -> None:
    for experiment in (dense, moe):
        assert find_wrong_tensors(experiment.source, experiment.converted) == []


def swap_halves(weights: Weights) -> None:
    name = "decoder.1.mlp.layer_1.weight/weights"
    weights[name] = weights[name].roll(len(weights[name]) // 2, 0)


def drop_rows(weights: Weights) -> None:
    weights["head.output_weights/weights"] = weights["head.output_weights/weights"][:-3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_halves, "decoder.1.mlp.layer_1.weight does not hold model.layers.1.mlp.gate_proj.weight (it holds "),
        (
            lambda w: w.update(
                {"decoder.0.mixer.query.weight/weights": w["decoder.0.mixer.query.weight/weights"].flip(0)}
            ),
            "decoder.0.mixer.query.weight does not hold model.layers.0.self_attn.q_proj.weight (rows in another order)",
        ),
        (
            lambda w: w.update(
                {QUERY: (w[QUERY] / w[QUERY].abs().max() * 448).to(torch.float8_e4m3fn).to(w[QUERY].dtype)}
            ),
            f"{HOLDS_NOT} (numbers of float8: codes that were cast, without their scales)",
        ),
        (
            lambda w: w[QUERY].copy_((w[QUERY] / w[QUERY].abs().max() * 127).round()),
            f"{HOLDS_NOT} (whole numbers of a byte: codes that were cast, without their scales)",
        ),
        (
            lambda w: w[QUERY].fill_(1),
            HOLDS_NOT,
        ),
        (
            lambda w: w["head.final_norm.weight/weights"].mul_(1.001),
            "head.final_norm.weight does not hold model.norm.weight (rounded)",
        ),
        (
            lambda w: w["decoder.2.norm_1.weight/weights"].add_(1),
            "decoder.2.norm_1.weight does not hold model.layers.2.",
        ),
        (drop_rows, "head.output_weights has "),
    ],
)
def test_a_wrong_tensor_is_named(
    dense: Experiment, tmp_path: Path, change: Callable[[Weights], object], message: str
) -> None:
    (problem,) = find_wrong_tensors(dense.source, changed(dense, tmp_path / "wrong", change)) or []
    assert problem.startswith(message)
    assert ("codes" in problem) == ("codes" in message)


def test_an_unknown_layout_gives_no_answer(dense: Experiment, tmp_path: Path) -> None:
    def rename(weights: Weights) -> None:
        weights["decoder.0.mixer.fused.weight/weights"] = weights.pop("decoder.0.mixer.query.weight/weights")

    assert find_wrong_tensors(dense.source, changed(dense, tmp_path / "unknown", rename)) is None
