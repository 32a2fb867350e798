"""The selective scan against transformers' Mamba, and the block around it: groups of heads, documents, biases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, silu, softplus
from transformers.models.mamba import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from ci.subjects.hugging_face.float64_mode import Float64Mode
from ci.subjects.hugging_face.random_model import draw_weights
from ci.subjects.reference.config import Mamba
from ci.subjects.reference.convert_delta import list_mamba
from ci.subjects.reference.mamba import run_mamba, run_selective_scan
from ci.tensor_names import CONTEXT

HIDDEN = 10
BLOCK = Mamba(inner=24, grouped=8, state=4, rank=3, kernel=3, bias=True, convolution_bias=True, step_bias=True)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_weights(mixer: Mamba) -> dict[str, Tensor]:
    parameters = list_mamba("mixer", "mixer", mixer, HIDDEN)
    return {p.name.removeprefix("mixer."): draw(*p.shape, seed=n) / 2 for n, p in enumerate(parameters)}


def run(mixer: Mamba, hidden: Tensor, weights: dict[str, Tensor], documents: Tensor | None = None) -> Tensor:
    return run_mamba(mixer, hidden, documents, weights.__getitem__, lambda *_: None)


def test_the_scan_equals_transformers() -> None:
    """What transformers' block is seen to give its scan, with one head whose B and C all channels share."""
    mixer: Any = MambaMixer(MambaConfig(hidden_size=HIDDEN, intermediate_size=20, state_size=4, time_step_rank=3), 0)
    draw_weights(mixer, 0)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ("in_proj", "x_proj", "out_proj"):
        part = getattr(mixer, name)
        part.register_forward_hook(lambda _, given, out, name=name: seen.update({name: (given[0], out)}))
    with Float64Mode(), torch.no_grad():
        mixer.double()(draw(2, 30, HIDDEN))
    x, parameters = seen["x_proj"]
    small, b, c = parameters.split_with_sizes([3, 4, 4], dim=-1)
    steps = softplus(linear(small, mixer.dt_proj.weight, mixer.dt_proj.bias))
    gate = seen["in_proj"][1].chunk(2, dim=-1)[1]
    ours = run_selective_scan(x, steps, mixer.A_log, b[:, :, None], c[:, :, None], mixer.D, None) * silu(gate)
    torch.testing.assert_close(ours, seen["out_proj"][0], rtol=1e-11, atol=1e-12)


def test_a_document_begins_without_state_and_past() -> None:
    weights, hidden = make_weights(BLOCK), draw(2, 12, HIDDEN, seed=9)
    packed = run(BLOCK, hidden, weights, torch.tensor([[0] * 5 + [1] * 7, [1] * 12]))
    torch.testing.assert_close(packed[:1, 5:], run(BLOCK, hidden[:1, 5:], weights))
    torch.testing.assert_close(packed[1:], run(BLOCK, hidden[1:], weights))


def test_groups_are_repeated_for_adjacent_heads() -> None:
    """A block whose heads have x and B of their own, each three times the same, answers alike."""
    weights, hidden = make_weights(BLOCK), draw(1, 9, HIDDEN, seed=9)
    gate, x, b, c = weights["in_proj.weight"].split_with_sizes([24, 8, 8, 24])
    gate_bias, x_bias, b_bias, c_bias = weights["in_proj.bias"].split_with_sizes([24, 8, 8, 24])

    def repeat(rows: Tensor) -> Tensor:
        return rows.view(2, 1, 4, *rows.shape[1:]).expand(-1, 3, *[-1] * rows.ndim).reshape(24, *rows.shape[1:])

    wide = {**weights, "in_proj.weight": torch.cat([gate, repeat(x), repeat(b), c])}
    wide["in_proj.bias"] = torch.cat([gate_bias, repeat(x_bias), repeat(b_bias), c_bias])
    torch.testing.assert_close(run(replace(BLOCK, grouped=24), hidden, wide), run(BLOCK, hidden, weights))


def test_the_bias_of_the_steps_counts_twice() -> None:
    weights, hidden = make_weights(BLOCK), draw(1, 9, HIDDEN, seed=9)
    doubled = {**weights, "dt_proj.bias": torch.zeros(24, dtype=torch.float64)}
    doubled["dt_in_proj.weight"] = torch.cat([weights["dt_in_proj.weight"], torch.zeros(1, HIDDEN).double()])
    doubled["dt_in_proj.bias"] = torch.cat([weights["dt_in_proj.bias"], torch.ones(1).double()])
    column = 2 * weights["dt_proj.bias"][:, None]
    doubled["dt_proj.weight"] = torch.cat([weights["dt_proj.weight"], column], dim=1)
    torch.testing.assert_close(run(BLOCK, hidden, doubled), run(BLOCK, hidden, weights))


@pytest.mark.parametrize("off", ["bias", "convolution_bias", "step_bias"])
def test_a_block_without_a_bias_has_no_such_weight(off: str) -> None:
    mixer = replace(BLOCK, **{off: False})
    weights, seen = make_weights(mixer), dict[str, Tensor]()
    assert len(weights) < len(make_weights(BLOCK))
    run_mamba(mixer, draw(1, 5, HIDDEN), None, weights.__getitem__, seen.__setitem__)
    assert tuple(seen[CONTEXT].shape) == (1, 5, 24)
