"""Plain PyTorch stand-ins for the CUDA kernels that modelling code imports: fla, causal_conv1d and mamba_ssm.

On a machine with these packages the model runs their kernels. Elsewhere its code refuses to build a gated delta net or
Kimi delta attention, so that the modules' names of the kernels are filled with the functions below: the same
signatures, and the recurrences token by token as their papers write them. The report says so.

Gated delta net: https://arxiv.org/abs/2412.06464, equation 10. Kimi delta attention: https://arxiv.org/abs/2510.26692,
equation 1 (a decay for each channel of a key), and https://github.com/fla-org/flash-linear-attention,
`fla/ops/kda/naive.py` and `gate.py`. The kernels' own conventions, from the same repository: queries are scaled by
head_dim ** -0.5, and `use_qk_l2norm_in_kernel` normalizes with an epsilon of 1e-6 below the root.
"""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

L2_EPSILON = 1e-6
ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda tensor: tensor,
    "silu": functional.silu,
    "swish": functional.silu,
    "sigmoid": torch.sigmoid,
}


def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor | None = None, **settings: Any) -> Tensor:
    """Convolve each channel with its own past: x (B, channels, T), weight (channels, width).

    https://github.com/Dao-AILab/causal-conv1d, `causal_conv1d_ref`.
    """
    _refuse(settings, ("initial_states", "return_final_states", "final_states_out", "seq_idx"))
    channels, width = weight.shape
    out = functional.conv1d(functional.pad(x, (width - 1, 0)), weight[:, None], bias, groups=channels)
    return ACTIVATIONS[settings.get("activation")](out)


def recurrent_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, *, normalize: bool
) -> Tensor:
    """Run the gated delta rule token by token.

    query and key (B, T, heads, key_dim), value (B, T, heads, value_dim), beta (B, T, heads); the logarithm of the decay
    is (B, T, heads) for one a head or (B, T, heads, key_dim) for one a channel. Returns (B, T, heads, value_dim).
    """
    dtype = torch.promote_types(value.dtype, decay.dtype)
    query, key, value, decay, beta = (tensor.to(dtype) for tensor in (query, key, value, decay, beta))
    if normalize:
        query, key = _normalize(query), _normalize(key)
    query = query * query.shape[-1] ** -0.5
    kept = (decay if decay.ndim == 4 else decay[..., None]).exp()[..., None]
    state = value.new_zeros(*value.shape[:1], *value.shape[2:3], key.shape[-1], value.shape[-1])
    outputs = []
    for token in range(value.shape[1]):
        state = state * kept[:, token]
        written = value[:, token] - torch.einsum("bhkv,bhk->bhv", state, key[:, token])
        state = state + torch.einsum("bhk,bhv->bhkv", key[:, token], beta[:, token, :, None] * written)
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, query[:, token]))
    return torch.stack(outputs, dim=1)


def gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, **settings: Any) -> tuple[Tensor, None]:
    """Stand in for fla's `chunk_gated_delta_rule` and `fused_recurrent_gated_delta_rule`."""
    _refuse(settings, ("initial_state", "cu_seqlens"))
    return recurrent_delta_rule(q, k, v, g, beta, normalize=settings["use_qk_l2norm_in_kernel"]).to(v.dtype), None


def kda(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, **settings: Any) -> tuple[Tensor, None]:
    """Stand in for fla's `chunk_kda` and `fused_recurrent_kda`."""
    _refuse(settings, ("initial_state", "cu_seqlens"))
    if settings.get("use_gate_in_kernel"):
        g = kda_gate(g, settings["A_log"], dt_bias=settings["dt_bias"])
    return recurrent_delta_rule(q, k, v, g, beta, normalize=settings["use_qk_l2norm_in_kernel"]).to(v.dtype), None


def selective_scan_fn(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None, /, **settings: Any
) -> Tensor:
    """Stand in for mamba_ssm's `selective_scan_fn`, the recurrence of Mamba.

    u and delta are (B, channels, T), a (channels, state), b and c (B, heads, state, T), with adjacent channels to a
    head. Equation 2 of https://arxiv.org/abs/2312.00752, in float32 at least, and the gate z.
    """
    _refuse(settings, ("return_last_state", "position_indices"))
    dtype, shared = torch.promote_types(u.dtype, a.dtype), u.shape[1] // b.shape[1]
    x, step, gate = u.to(dtype), delta.to(dtype), settings.get("z")
    step = step if (bias := settings.get("delta_bias")) is None else step + bias.to(dtype)[:, None]
    step = functional.softplus(step) if settings.get("delta_softplus") else step
    write, read = (tensor.to(dtype).repeat_interleave(shared, dim=1) for tensor in (b, c))
    state, outputs = x.new_zeros(*x.shape[:2], a.shape[1]), []
    for token in range(x.shape[2]):
        state = state * torch.einsum("bc,cn->bcn", step[..., token], a).exp()
        state = state + torch.einsum("bcn,bc->bcn", write[..., token], step[..., token] * x[..., token])
        outputs.append(torch.einsum("bcn,bcn->bc", state, read[..., token]))
    out = torch.stack(outputs, dim=-1)
    out = out if d is None else out + d.to(dtype)[:, None] * x
    return (out if gate is None else out * functional.silu(gate.to(dtype))).to(u.dtype)


def kda_gate(g: Tensor, A_log: Tensor, dt_bias: Tensor | None = None) -> Tensor:  # noqa: N803 (fla's name)
    """Stand in for fla's `fused_kda_gate`: (B, T, heads, dim) becomes the logarithm of the decay."""
    heads, dim = g.shape[-2:]
    g = g.float() if dt_bias is None else g.float() + dt_bias.view(heads, dim)
    return -A_log.view(heads, 1).float().exp() * functional.softplus(g)


def rms_norm_gated(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor | None = None, **settings: Any) -> Tensor:
    """Stand in for fla's `rms_norm_gated`: the norm of x, times the weight, times the activated gate."""
    _refuse(settings, ("residual", "prenorm", "residual_in_fp32"))
    wide = x.float()
    out = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + settings["eps"]) * weight.float()
    out = out if bias is None else out + bias.float()
    return (out * ACTIVATIONS[settings["activation"]](gate.float())).to(x.dtype)


STAND_INS: dict[str, Any] = {
    "_causal_conv1d_fn": causal_conv1d_fn,
    "chunk_gated_delta_rule": gated_delta_rule,
    "fused_recurrent_gated_delta_rule": gated_delta_rule,
    "chunk_kda": kda,
    "fused_recurrent_kda": kda,
    "fused_kda_gate": kda_gate,
    "rms_norm_gated": rms_norm_gated,
}
"""Each kernel's name in a modelling module that imported it, and what stands in where the import failed."""

FLAGS = ("is_fast_path_available", "_gdn_fla_available", "_kda_fla_available")
"""Names by which such a module knows whether it has the kernels."""


def fill_missing_kernels(module: ModuleType) -> tuple[str, ...]:
    """Give a modelling module the stand-ins of kernels that it could not import; return their names."""
    missing = [name for name in STAND_INS if name in vars(module) and getattr(module, name) is None]
    for name in missing:
        setattr(module, name, STAND_INS[name])
    for flag in FLAGS if missing else ():
        if flag in vars(module):
            setattr(module, flag, True)
    return tuple(missing)


def offer_flash_attention() -> None:
    """Make `flash_attn` importable where it is not installed: some code imports it for an implementation it won't run.

    A call of it fails by name.
    """
    if "flash_attn" in sys.modules or importlib.machinery.PathFinder.find_spec("flash_attn"):
        return

    def flash_attn_with_kvcache(*_: Any, **__: Any) -> Tensor:
        raise NotImplementedError("flash_attn is not installed here")

    module = ModuleType("flash_attn")
    module.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    module.flash_attn_with_kvcache = flash_attn_with_kvcache  # type: ignore[attr-defined]
    sys.modules["flash_attn"] = module


def _normalize(tensor: Tensor) -> Tensor:
    return tensor * torch.rsqrt(tensor.square().sum(-1, keepdim=True) + L2_EPSILON)


def _refuse(settings: dict[str, Any], names: tuple[str, ...]) -> None:
    """Raise NotImplementedError for a setting of a kernel that a forward pass without a cache does not need."""
    given = ((name, settings.get(name)) for name in names)
    if asked := [name for name, value in given if value is not None and value is not False]:
        raise NotImplementedError(f"the plain stand-in of this kernel has no {asked[0]}")
