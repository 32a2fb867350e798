"""A Mamba block with grouped heads: a selective scan token by token, between a short convolution and a gate.

The scan is equations 2 and 4 of https://arxiv.org/abs/2312.00752. The projections are those of Fast-LLM's mamba.py,
after https://github.com/jxiw/M1: x and B come in groups of heads, as keys and values do, and C as queries do. Neither
state nor convolution reaches from one document into the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear, silu, softplus

from ci.subjects.reference.delta_rule import convolve_causally, find_document_starts, widen
from ci.tensor_names import CONTEXT, KEY, QUERY, STEP, VALUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ci.subjects.reference.config import Mamba
    from ci.subjects.reference.delta_mixers import RecordOperation


def run_mamba(
    mixer: Mamba,
    normed: Tensor,
    documents: Tensor | None,
    weight: Callable[[str], Tensor],
    record: RecordOperation,
) -> Tensor:
    """Run a Mamba block over (B, T, hidden).

    The bias of the steps counts twice, as in the modelling code: the projection adds it, and the scan again.
    """

    def project(name: str, tensor: Tensor, *, bias: bool) -> Tensor:
        return linear(tensor, weight(f"{name}.weight"), weight(f"{name}.bias") if bias else None)

    inner, groups = mixer.inner, mixer.grouped
    mixed = project("in_proj", normed, bias=mixer.bias)
    gate, x, b, c = mixed.split_with_sizes([inner, groups, groups, inner], dim=-1)
    x, b = (_repeat_groups(tensor, mixer) for tensor in (x, b))
    bias = weight("convolution.bias") if mixer.convolution_bias else None
    x = silu(convolve_causally(x, weight("convolution.weight"), documents, bias))
    steps = widen(project("dt_proj", project("dt_in_proj", normed, bias=mixer.bias), bias=mixer.step_bias))
    steps = softplus(steps + widen(weight("dt_proj.bias")) if mixer.step_bias else steps)
    heads = {VALUE: x, KEY: b, QUERY: c}
    for name in (QUERY, KEY, VALUE):
        heads[name] = heads[name].view(*normed.shape[:2], -1, mixer.state)
        record(name, heads[name])
    record(STEP, steps)
    read = run_selective_scan(x, steps, weight("A_log"), heads[KEY], heads[QUERY], weight("D"), documents)
    context = (read * silu(widen(gate))).to(normed.dtype)
    record(CONTEXT, context)
    return project("out_proj", context, bias=mixer.bias)


def run_selective_scan(
    x: Tensor, steps: Tensor, a_log: Tensor, b: Tensor, c: Tensor, skip: Tensor, documents: Tensor | None
) -> Tensor:
    """Run the scan over (B, T, channels); return what is read from the state.

    h = exp(step A) h + step B x, y = C h + D x, with A = -exp(A_log), (channels, state). B and C are (B, T, heads,
    state), for channels / heads adjacent channels each. It runs in float32 at least.
    """
    x, steps, skip = widen(x), widen(steps), widen(skip)
    shared = x.shape[-1] // b.shape[2]
    b, c = (widen(tensor).repeat_interleave(shared, dim=2) for tensor in (b, c))
    a, begins = -widen(a_log).exp(), find_document_starts(documents, x)
    state, outputs = x.new_zeros(x.shape[0], *a.shape), []
    for token in range(x.shape[1]):
        step = steps[:, token, :, None]
        state = torch.where(begins[:, token, None, None], 0.0, state) * (step * a).exp()
        state = state + step * b[:, token] * x[:, token, :, None]
        outputs.append((state * c[:, token]).sum(-1))
    return torch.stack(outputs, dim=1) + skip * x


def _repeat_groups(tensor: Tensor, mixer: Mamba) -> Tensor:
    """Return (B, T, groups) with each group of `state` values repeated for its heads: (B, T, inner)."""
    grouped = tensor.view(*tensor.shape[:2], -1, mixer.state)
    return grouped.repeat_interleave(mixer.inner // mixer.grouped, dim=2).flatten(2)
