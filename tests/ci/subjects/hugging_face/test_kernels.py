"""The stand-ins for CUDA kernels, against the recurrences as one matrix product a token, and as a closed form."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional

from ci.subjects.hugging_face.kernels import (
    STAND_INS,
    causal_conv1d_fn,
    fill_missing_kernels,
    gated_delta_rule,
    kda,
    kda_gate,
    offer_flash_attention,
    recurrent_delta_rule,
    rms_norm_gated,
    selective_scan_fn,
)

B, T, H, K, V = 2, 11, 3, 5, 7


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs() -> dict[str, torch.Tensor]:
    return {
        "q": draw(B, T, H, K, seed=1),
        "k": functional.normalize(draw(B, T, H, K, seed=2), dim=-1),
        "v": draw(B, T, H, V, seed=3),
        "g": -draw(B, T, H, seed=4).abs(),
        "beta": draw(B, T, H, seed=5).sigmoid(),
    }


def multiply_matrices(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor) -> Any:
    """S_t = (I - beta k kᵀ) Diag(exp g) S_{t-1} + beta k vᵀ, o_t = S_tᵀ q / sqrt(K): equation 1 of KDA's paper."""
    decay = (g if g.ndim == 4 else g[..., None].expand_as(k)).exp()
    out = torch.empty_like(v)
    for b in range(B):
        for h in range(H):
            state = torch.zeros(K, V, dtype=torch.float64)
            for t in range(T):
                key, strength = k[b, t, h], beta[b, t, h]
                erase = torch.eye(K, dtype=torch.float64) - strength * torch.outer(key, key)
                state = erase @ torch.diag(decay[b, t, h]) @ state + strength * torch.outer(key, v[b, t, h])
                out[b, t, h] = state.T @ q[b, t, h] * K**-0.5
    return out


@pytest.mark.parametrize("channelwise", [False, True])
def test_the_delta_rule_is_the_papers(channelwise: bool) -> None:
    given = inputs()
    if channelwise:
        given["g"] = -draw(B, T, H, K, seed=6).abs()
    actual = recurrent_delta_rule(*given.values(), normalize=False)
    torch.testing.assert_close(actual, multiply_matrices(**given), rtol=1e-12, atol=1e-12)


def test_without_decay_and_erasure_it_is_linear_attention() -> None:
    given = inputs() | {"g": torch.zeros(B, T, H, dtype=torch.float64)}
    given["k"] = torch.eye(T, dtype=torch.float64).expand(B, H, T, T).transpose(1, 2)  # orthonormal: nothing is erased
    given["q"] = draw(B, T, H, T, seed=7)
    actual = recurrent_delta_rule(*given.values(), normalize=False)
    scores = torch.einsum("bthk,bshk->bhts", given["q"], given["k"]).tril() * T**-0.5
    expected = torch.einsum("bhts,bshv->bthv", scores, given["beta"][..., None] * given["v"])
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_the_kernels_normalize_and_gate_as_fla_does() -> None:
    given = inputs()
    wide = {name: 3 * given[name] for name in ("q", "k")}
    normal = {name: t * torch.rsqrt(t.square().sum(-1, keepdim=True) + 1e-6) for name, t in wide.items()}
    expected = multiply_matrices(**(given | normal))
    out, state = gated_delta_rule(**(given | wide), use_qk_l2norm_in_kernel=True, initial_state=None)
    assert state is None
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    raw, log, bias = draw(B, T, H, K, seed=8), draw(H, seed=9), draw(H * K, seed=10)
    gate = kda_gate(raw, log, dt_bias=bias)
    one = -log[2].exp() * functional.softplus(raw[0, 1, 2, 3] + bias[13])
    torch.testing.assert_close(gate[0, 1, 2, 3].double(), one, rtol=1e-6, atol=0)  # fla computes it in float32
    gated: dict[str, Any] = {"A_log": log, "dt_bias": bias, "use_gate_in_kernel": True}
    inside, _ = kda(**(given | {"g": raw}), **gated, use_qk_l2norm_in_kernel=True)
    outside, _ = kda(**(given | {"g": gate}), use_qk_l2norm_in_kernel=True)
    assert torch.equal(inside, outside)


def test_the_convolution_sees_the_past_alone() -> None:
    x, weight, bias = draw(B, 4, T, seed=1), draw(4, 3, seed=2), draw(4, seed=3)
    actual = causal_conv1d_fn(x, weight, bias, activation="silu", initial_states=None)
    padded = functional.pad(x, (2, 0))
    expected = sum(weight[:, i, None] * padded[:, :, i : i + T] for i in range(3)) + bias[:, None]
    torch.testing.assert_close(actual, functional.silu(expected))


@pytest.mark.parametrize("activation", ["silu", "sigmoid"])
def test_the_gated_norm_is_a_norm_times_a_gate(activation: str) -> None:
    x, gate, weight = draw(6, 5, seed=1).float(), draw(6, 5, seed=2).float(), draw(5, seed=3).float()
    actual = rms_norm_gated(x, gate, weight, activation=activation, eps=1e-2, residual=None, prenorm=False)
    expected = functional.rms_norm(x, (5,), weight, 1e-2) * torch.sigmoid(gate)
    torch.testing.assert_close(actual, expected if activation == "sigmoid" else expected * gate)


def test_the_scan_is_the_papers_sum() -> None:
    """y_t = sum over s <= t of c_t exp(a sum of the steps after s) b_s step_s x_s, plus d x_t, times silu(z_t)."""
    channels, heads, state = 6, 2, 4
    x, raw, z = (draw(B, channels, T, seed=seed) for seed in (1, 2, 3))
    a, d, bias = -draw(channels, state, seed=4).exp(), draw(channels, seed=5), draw(channels, seed=6)
    b, c = (draw(B, heads, state, T, seed=seed) for seed in (7, 8))
    out = selective_scan_fn(x, raw, a, b, c, d, z=z, delta_bias=bias, delta_softplus=True)
    step = functional.softplus(raw + bias[:, None])
    between = step.cumsum(-1)[..., :, None] - step.cumsum(-1)[..., None, :]
    kept = (a[:, :, None, None] * between[:, :, None]).exp().tril()
    b, c = (tensor.repeat_interleave(channels // heads, dim=1) for tensor in (b, c))
    expected = torch.einsum("bcnt,bcnts,bcns,bcs->bct", c, kept, b, step * x) + d[:, None] * x
    torch.testing.assert_close(out, expected * functional.silu(z), rtol=1e-12, atol=1e-12)
    plain = selective_scan_fn(x, raw.abs(), a, b, c)
    torch.testing.assert_close(plain, selective_scan_fn(x, raw.abs(), a, b, c, torch.zeros(channels)))


@pytest.mark.parametrize("setting", ["return_last_state", "position_indices"])
def test_a_state_that_is_asked_for_is_refused(setting: str) -> None:
    x, a, b = torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 1, 1, 1)
    with pytest.raises(NotImplementedError, match=setting):
        selective_scan_fn(x, x, a, b, b, **{setting: True})


@pytest.mark.parametrize(("kernel", "setting"), [(gated_delta_rule, "cu_seqlens"), (kda, "initial_state")])
def test_what_a_stand_in_cannot_do_is_refused(kernel: Any, setting: str) -> None:
    with pytest.raises(NotImplementedError, match=setting):
        kernel(**inputs(), use_qk_l2norm_in_kernel=True, **{setting: torch.zeros(1)})


def test_only_missing_kernels_are_filled() -> None:
    module = ModuleType("modeling")
    module.chunk_kda, module.rms_norm_gated, module.is_fast_path_available = None, print, False  # type: ignore[attr-defined]
    assert fill_missing_kernels(module) == ("chunk_kda",)
    assert module.chunk_kda is STAND_INS["chunk_kda"]
    assert module.rms_norm_gated is print
    assert module.is_fast_path_available is True
    assert fill_missing_kernels(module) == ()


def test_flash_attention_is_importable_and_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    monkeypatch.setattr(importlib.machinery.PathFinder, "find_spec", lambda _: None)
    offer_flash_attention()
    module = sys.modules["flash_attn"]
    monkeypatch.delitem(sys.modules, "flash_attn")
    with pytest.raises(NotImplementedError, match="not installed"):
        module.flash_attn_with_kvcache()
