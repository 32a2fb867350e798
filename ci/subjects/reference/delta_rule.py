"""The gated delta rule token by token, and what both of its mixers share: short convolution, decay, gated norm.

https://arxiv.org/abs/2412.06464 (gated delta net) and https://arxiv.org/abs/2510.26692 (Kimi delta attention). Neither
state nor convolution reaches from one document into the next one. Casts are where the kernels of
https://github.com/fla-org/flash-linear-attention have them: the recurrence, decays and norms in float32 at least.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn.functional import silu, softplus

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

L2_EPSILON: Final = 1e-6
"""Below the root of a query's or key's norm, as in the kernels."""
GATES: Final[dict[str, Callable[[Tensor], Tensor]]] = {"silu": silu, "sigmoid": torch.sigmoid}


def run_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, documents: Tensor | None
) -> Tensor:
    """Run the recurrence over (B, T, heads, …) and return what queries read, (B, T, heads, value_dim).

    Equation 10 of the first paper, S = S a (I - b k kᵀ) + b v kᵀ, with S (value_dim, key_dim) a head. `decay` is log a,
    (B, T, heads) or, for a decay of each channel of a key, (B, T, heads, key_dim). `beta` is b, (B, T, heads). Queries
    and keys have unit length; queries are divided by sqrt(key_dim).
    """
    dtype = value.dtype
    query, key, value, decay, beta = map(widen, (query, key, value, decay, beta))
    query, key = normalize_length(query) * query.shape[-1] ** -0.5, normalize_length(key)
    kept = (decay if decay.ndim == key.ndim else decay[..., None]).exp()
    begins = find_document_starts(documents, value)
    state = value.new_zeros(*value.shape[:1], *value.shape[2:], key.shape[-1])
    outputs = []
    for token in range(value.shape[1]):
        state = torch.where(begins[:, token, None, None, None], 0.0, state) * kept[:, token, :, None]
        k, strength = key[:, token, :, None], beta[:, token, :, None, None]
        forgotten = (state * k).sum(-1, keepdim=True)
        state = state + strength * (value[:, token, :, :, None] - forgotten) * k
        outputs.append((state * query[:, token, :, None]).sum(-1))
    return torch.stack(outputs, dim=1).to(dtype)


def convolve_causally(tensor: Tensor, weight: Tensor, documents: Tensor | None, bias: Tensor | None = None) -> Tensor:
    """Convolve each channel of (B, T, channels) with its own past, weight (channels, 1, width), without activation."""
    wide, taps = widen(tensor), widen(weight)[:, 0].flip(-1)
    total = wide * taps[:, 0]
    for back in range(1, taps.shape[1]):
        total = total + shift_tokens(wide, documents, back) * taps[:, back]
    return (total if bias is None else total + widen(bias)).to(tensor.dtype)


def shift_tokens(tensor: Tensor, documents: Tensor | None, back: int) -> Tensor:
    """Return at each token of (B, T, channels) the values `back` tokens earlier, zero before its document."""
    shifted = torch.zeros_like(tensor)
    shifted[:, back:] = tensor[:, : tensor.shape[1] - back]
    if documents is None:
        return shifted
    same = torch.zeros_like(documents, dtype=torch.bool)
    same[:, back:] = documents[:, back:] == documents[:, : documents.shape[1] - back]
    return torch.where(same[..., None], shifted, 0.0)


def find_document_starts(documents: Tensor | None, like: Tensor) -> Tensor:
    """Return where a document begins, (B, T) bool; the first token of a row always does."""
    begins = torch.zeros(like.shape[:2], dtype=torch.bool, device=like.device)
    begins[:, 0] = True
    if documents is not None:
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return begins


def compute_decay(tensor: Tensor, a_log: Tensor, bias: Tensor) -> Tensor:
    """Return the logarithm of the decay, -exp(A_log) softplus(x + bias)."""
    return -widen(a_log).exp() * softplus(widen(tensor) + widen(bias))


def normalize_gated(tensor: Tensor, gate: Tensor, weight: Tensor, epsilon: float, activation: str = "silu") -> Tensor:
    """Return RMSNorm(x) * weight * activation(gate), over the last dimension."""
    wide = widen(tensor)
    normed = wide / (wide.square().mean(-1, keepdim=True) + epsilon).sqrt()
    return (normed * widen(weight) * GATES[activation](widen(gate))).to(tensor.dtype)


def normalize_length(tensor: Tensor) -> Tensor:
    """Return vectors of unit length along the last dimension."""
    return tensor / (tensor.square().sum(-1, keepdim=True) + L2_EPSILON).sqrt()


def widen(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
