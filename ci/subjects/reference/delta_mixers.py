"""Gated delta net and Kimi delta attention: projections, short convolutions and gates around the delta rule.

The layout of the weights is Fast-LLM's: https://github.com/ServiceNow/Fast-LLM/blob/main/fast_llm/layers/ssm/gdn.py
and kda.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import linear, silu

from ci.subjects.reference.delta_rule import compute_decay, convolve_causally, normalize_gated, run_delta_rule
from ci.tensor_names import BETA, CONTEXT, DECAY, KEY, QUERY, RECURRENCE, VALUE

if TYPE_CHECKING:
    from ci.subjects.reference.config import GatedDeltaNet, KimiDeltaAttention

ReadWeight = Callable[[str], Tensor]
"""Returns a mixer's weight by the end of its name."""
RecordOperation = Callable[[str, Tensor], None]


def run_gated_delta_net(
    mixer: GatedDeltaNet, normed: Tensor, documents: Tensor | None, weight: ReadWeight, record: RecordOperation
) -> Tensor:
    """Run a gated delta net over (B, T, hidden): equation 10 of https://arxiv.org/abs/2412.06464.

    Its first projection gives queries, keys, values and output gates, its second one beta and the decay's input, each
    of all heads together; a head of keys serves adjacent heads of values.
    """
    keys, values = mixer.key_heads * mixer.key_head_dim, mixer.value_heads * mixer.value_head_dim
    mixed, gate = linear(normed, weight("in_proj_qkvz.weight")).split_with_sizes([2 * keys + values, values], dim=-1)
    mixed = silu(convolve_causally(mixed, weight("convolution.weight"), documents))
    query, key, value = mixed.split_with_sizes([keys, keys, values], dim=-1)
    beta, alpha = linear(normed, weight("in_proj_ba.weight")).chunk(2, dim=-1)
    shared = mixer.value_heads // mixer.key_heads
    query, key = (split_heads(t, mixer.key_heads).repeat_interleave(shared, dim=2) for t in (query, key))
    value = split_heads(value, mixer.value_heads)
    decay = compute_decay(alpha, weight("A_log"), weight("dt_bias"))
    read = _recur(query, key, value, decay, beta.sigmoid(), documents, record)
    read = normalize_gated(read, gate.view_as(read), weight("norm.weight"), mixer.epsilon)
    return _project(read, weight("out_proj.weight"), record)


def run_kimi_delta_attention(
    mixer: KimiDeltaAttention, normed: Tensor, documents: Tensor | None, weight: ReadWeight, record: RecordOperation
) -> Tensor:
    """Run Kimi delta attention over (B, T, hidden): equation 1 of https://arxiv.org/abs/2510.26692.

    The decay of each channel and the output's gate each come from a projection of low rank.
    """

    def project(name: str) -> Tensor:
        projected = linear(normed, weight(f"{name}_proj.weight"))
        convolved = convolve_causally(projected, weight(f"{name}_conv.weight"), documents)
        return split_heads(silu(convolved), mixer.heads)

    def project_low_rank(name: str) -> Tensor:
        inner = linear(normed, weight(f"{name}_a_proj.weight"))
        return split_heads(linear(inner, weight(f"{name}_b_proj.weight")), mixer.heads)

    bias = weight("dt_bias").view(mixer.heads, -1)
    decay = compute_decay(project_low_rank("f"), weight("A_log")[:, None], bias)
    beta = linear(normed, weight("beta_proj.weight")).to(decay.dtype).sigmoid()
    read = _recur(project("q"), project("k"), project("v"), decay, beta, documents, record)
    read = normalize_gated(read, project_low_rank("g"), weight("norm.weight"), mixer.epsilon, mixer.gate)
    return _project(read, weight("o_proj.weight"), record)


def split_heads(tensor: Tensor, heads: int) -> Tensor:
    """Return (B, T, size) as (B, T, heads, size / heads)."""
    return tensor.reshape(*tensor.shape[:2], heads, -1)


def _recur(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    decay: Tensor,
    beta: Tensor,
    documents: Tensor | None,
    record: RecordOperation,
) -> Tensor:
    names = (QUERY, KEY, VALUE, DECAY, BETA)
    for operation, tensor in zip(names, (query, key, value, decay, beta), strict=True):
        record(operation, tensor)
    read = run_delta_rule(query, key, value, decay, beta, documents)
    record(RECURRENCE, read)
    return read


def _project(read: Tensor, weight: Tensor, record: RecordOperation) -> Tensor:
    context = read.flatten(2)
    record(CONTEXT, context)
    return linear(context, weight)
