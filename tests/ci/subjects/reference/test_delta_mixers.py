"""Whole mixers against transformers' modules of Qwen3-Next and Kimi Linear, their weights in Fast-LLM's order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.kimi_linear import KimiLinearConfig
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention
from transformers.models.qwen3_next import Qwen3NextConfig
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

from ci.subjects.hugging_face.float64_mode import Float64Mode
from ci.subjects.hugging_face.random_model import draw_weights
from ci.subjects.reference.config import GatedDeltaNet, KimiDeltaAttention
from ci.subjects.reference.delta_mixers import run_gated_delta_net, run_kimi_delta_attention, split_heads
from ci.tensor_names import BETA, CONTEXT, DECAY, KEY, QUERY, RECURRENCE, VALUE

HIDDEN = 20
NET = GatedDeltaNet(value_heads=6, key_heads=2, key_head_dim=4, value_head_dim=5, kernel=3, epsilon=1e-3)
KIMI = KimiDeltaAttention(heads=3, head_dim=6, kernel=4, epsilon=1e-3, gate="sigmoid")


def draw_input() -> Tensor:
    return torch.randn(2, 70, HIDDEN, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def run_theirs(module: Any, hidden: Tensor) -> Tensor:
    with Float64Mode(), torch.no_grad():
        out: Tensor = module(hidden)
    return out


def make_qwen3_next() -> Any:
    config = Qwen3NextConfig(
        hidden_size=HIDDEN,
        linear_num_value_heads=NET.value_heads,
        linear_num_key_heads=NET.key_heads,
        linear_key_head_dim=NET.key_head_dim,
        linear_value_head_dim=NET.value_head_dim,
        linear_conv_kernel_dim=NET.kernel,
        rms_norm_eps=NET.epsilon,
        layer_types=["linear_attention"],
        num_hidden_layers=1,
    )
    module = Qwen3NextGatedDeltaNet(config, 0)
    draw_weights(module, 0)
    return module.double()


def gather_heads(weight: Tensor, sizes: list[int]) -> Tensor:
    """Return the rows of Qwen3-Next's projection, which has all of a key head together, part by part."""
    groups = weight.view(NET.key_heads, sum(sizes), HIDDEN).split(sizes, dim=1)  # type: ignore[no-untyped-call]
    return torch.cat([group.reshape(-1, HIDDEN) for group in groups])


def test_a_gated_delta_net_equals_qwen3_next() -> None:
    module = make_qwen3_next()
    weights = {name.replace("conv1d", "convolution"): value.detach() for name, value in module.named_parameters()}
    shared = NET.value_heads // NET.key_heads
    keys, values = NET.key_head_dim, shared * NET.value_head_dim
    weights["in_proj_qkvz.weight"] = gather_heads(weights["in_proj_qkvz.weight"], [keys, keys, values, values])
    weights["in_proj_ba.weight"] = gather_heads(weights["in_proj_ba.weight"], [shared, shared])
    seen: dict[str, Tensor] = {}
    ours = run_gated_delta_net(NET, draw_input(), None, weights.__getitem__, seen.__setitem__)
    torch.testing.assert_close(ours, run_theirs(module, draw_input()), rtol=1e-11, atol=1e-12)
    assert [*seen] == [QUERY, KEY, VALUE, DECAY, BETA, RECURRENCE, CONTEXT]
    assert [tuple(tensor.shape[2:]) for tensor in seen.values()] == [(6, 4), (6, 4), (6, 5), (6,), (6,), (6, 5), (30,)]


def test_kimi_delta_attention_equals_kimi_linear() -> None:
    config = KimiLinearConfig(
        hidden_size=HIDDEN,
        linear_num_heads=KIMI.heads,
        linear_head_dim=KIMI.head_dim,
        linear_conv_kernel_dim=KIMI.kernel,
        rms_norm_eps=KIMI.epsilon,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    module = KimiLinearDeltaAttention(config, 0)
    draw_weights(module, 0)
    module.double()
    given = {name: value.detach() for name, value in module.named_parameters()}
    weights = {name.replace("forget_gate.", "").replace("o_norm", "norm"): value for name, value in given.items()}
    weights["beta_proj.weight"], weights["A_log"] = weights["b_proj.weight"], weights["A_log"].flatten()
    for name, part in zip("qkv", weights["conv1d.weight"].chunk(3), strict=True):
        weights[f"{name}_conv.weight"] = part
    seen: dict[str, Tensor] = {}
    ours = run_kimi_delta_attention(KIMI, draw_input(), None, weights.__getitem__, seen.__setitem__)
    torch.testing.assert_close(ours, run_theirs(module, draw_input()), rtol=1e-11, atol=1e-12)
    assert tuple(seen[DECAY].shape) == (2, 70, 3, 6)


def test_heads_are_adjacent() -> None:
    assert split_heads(torch.arange(6).view(1, 1, 6), 2).tolist() == [[[[0, 1, 2], [3, 4, 5]]]]
