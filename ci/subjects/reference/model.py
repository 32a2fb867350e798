"""The decoder's forward pass over Fast-LLM's parameters: embeddings, blocks, head. Functions without state.

Casts are where transformers has them, so that low precision gives the same errors: norms in float32 and back, rotary
tables in float32 and then cast, softmax in float32, residuals in the model's dtype. In float64 everything except the
rotary tables is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu, linear, relu, silu

from ci.subjects.reference.attention import ATTENTION, AttentionMask, ImplementationLog
from ci.subjects.reference.config import Architecture, Attention, Mlp
from ci.subjects.reference.convert import EMBEDDINGS_WEIGHT, FINAL_NORM_WEIGHT, HEAD_WEIGHT
from ci.subjects.reference.moe import MOE, Experts, route
from ci.subjects.reference.rope import apply_rotary, rotary_tables
from ci.subjects.reference.transposed_linear import transposed_linear
from ci.tensor_names import (
    CONTEXT,
    FINAL_NORM,
    KEY,
    LOGITS,
    MIXER,
    MIXER_RESIDUAL,
    MLP,
    NORM_1,
    NORM_2,
    QUERY,
    ROUTER_LOGITS,
    ROUTER_SCORES,
    TOP_EXPERTS,
    VALUE,
    block_name,
    tensor_name,
)

if TYPE_CHECKING:
    from ci.subjects.reference.config import Activation

RecordTensor = Callable[[str, Tensor], None]
"""Is called with each named tensor of the forward pass as it is computed."""

ACTIVATIONS: Final[Mapping[Activation, Callable[[Tensor], Tensor]]] = {
    "silu": silu,
    "gelu": lambda x: gelu(x, approximate="tanh"),
    "relu": relu,
}


@dataclass(frozen=True)
class Context:
    """What every block of one forward pass shares: positions and documents (B, T), and the implementations."""

    positions: Tensor
    documents: Tensor | None = None
    attention: str = "eager"
    moe: str = "looped"
    ran: ImplementationLog = field(default_factory=ImplementationLog)


@dataclass(frozen=True)
class Model:
    """An architecture and its parameters by Fast-LLM's names, all of one dtype and on one device."""

    architecture: Architecture
    weights: Mapping[str, Tensor]

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (B, T, hidden) of token ids (B, T)."""
        return embedding(ids, self.weights[EMBEDDINGS_WEIGHT])

    def run_block(self, index: int, hidden: Tensor, context: Context, record: RecordTensor) -> Tensor:
        """Run block `index` over (B, T, hidden).

        `record` gets its tensors by their names in a trace.
        """
        block, name = self.architecture.blocks[index], block_name(index)
        normed = rms_norm(hidden, self.weights[f"{name}.norm_1.weight"], block.epsilon)
        record(tensor_name(index, NORM_1), normed)
        hidden = hidden + self._attention(index, block.attention, normed, context, record)
        record(tensor_name(index, MIXER_RESIDUAL), hidden)
        normed = rms_norm(hidden, self.weights[f"{name}.norm_2.weight"], block.epsilon)
        record(tensor_name(index, NORM_2), normed)
        mlp = self._mlp if block.mlp.experts is None else self._mixture
        hidden = hidden + mlp(index, block.mlp, normed, context, record)
        record(name, hidden)
        return hidden

    def run_head(self, hidden: Tensor, record: RecordTensor) -> Tensor:
        """Return the logits (B, T, vocabulary) of the final norm of (B, T, hidden)."""
        normed = rms_norm(hidden, self.weights[FINAL_NORM_WEIGHT], self.architecture.epsilon)
        record(FINAL_NORM, normed)
        logits = linear(normed, self.weights[EMBEDDINGS_WEIGHT if self.architecture.tied else HEAD_WEIGHT])
        record(LOGITS, logits)
        return logits

    def _linear(self, name: str, tensor: Tensor) -> Tensor:
        return linear(tensor, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _project_output(self, name: str, mixed: Tensor) -> Tensor:
        return self._linear(name, mixed)

    def _enter(self, tensor: Tensor) -> Tensor:
        """Begin what tensor-parallel ranks compute in parts; one process computes all of it."""
        return tensor

    def _leave(self, tensor: Tensor) -> Tensor:
        """End it: tensor-parallel ranks sum their parts; one process has the sum."""
        return tensor

    def _attention(
        self, index: int, attention: Attention, normed: Tensor, context: Context, record: RecordTensor
    ) -> Tensor:
        batch, length, _ = normed.shape
        name, normed = f"{block_name(index)}.mixer", self._enter(normed)
        query = self._linear(f"{name}.query", normed).view(batch, length, attention.heads, -1)
        key_value = self._linear(f"{name}.key_value", normed).view(batch, length, 2 * attention.kv_heads, -1)
        key, value = key_value.chunk(2, dim=2)
        cos, sin = rotary_tables(attention.rope, attention.head_dim, context.positions, normed.dtype)
        query, key = apply_rotary(query, cos, sin), apply_rotary(key, cos, sin)
        for operation, tensor in ((QUERY, query), (KEY, key), (VALUE, value)):
            record(tensor_name(index, operation), tensor)
        mask = AttentionMask(context.documents, attention.window)
        mixed = ATTENTION[context.attention](query, key, value, mask, context.ran)
        record(tensor_name(index, CONTEXT), mixed)
        output = self._project_output(f"{name}.dense", mixed)
        record(tensor_name(index, MIXER), output)
        return output

    def _mlp(self, index: int, mlp: Mlp, normed: Tensor, _: Context, record: RecordTensor) -> Tensor:
        name = f"{block_name(index)}.mlp"
        gate, up = self._linear(f"{name}.layer_1", self._enter(normed)).chunk(2, dim=-1)
        activated = ACTIVATIONS[mlp.activation](gate) * up
        output = self._leave(transposed_linear(activated, self.weights[f"{name}.layer_2.weight"]))
        if mlp.bias:
            output = output + self.weights[f"{name}.layer_2.bias"]
        record(tensor_name(index, MLP), output)
        return output

    def _mixture(self, index: int, mlp: Mlp, normed: Tensor, context: Context, record: RecordTensor) -> Tensor:
        name = f"{block_name(index)}.mlp"
        count, per_token = mlp.experts or 0, mlp.experts_per_token or 0
        tokens = normed.flatten(0, 1)
        routing = route(tokens, self.weights[f"{name}.router.weight"], per_token)
        record(tensor_name(index, ROUTER_LOGITS), routing.logits)
        record(tensor_name(index, TOP_EXPERTS), routing.experts)
        record(tensor_name(index, ROUTER_SCORES), routing.scores)
        experts = Experts(
            gate_up=self.weights[f"{name}.layer_1.weight"].view(count, -1, tokens.shape[1]),
            down=self.weights[f"{name}.layer_2.weight"].view(count, -1, tokens.shape[1]),
            activation=ACTIVATIONS[mlp.activation],
        )
        routing = replace(routing, scores=self._enter(routing.scores))
        output = self._leave(MOE[context.moe](self._enter(tokens), routing, experts, context.ran)).view_as(normed)
        record(tensor_name(index, MLP), output)
        return output


def rms_norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Normalize by the root mean square, in float32 at least: https://arxiv.org/abs/1910.07467.

    The result is cast back before it is multiplied by the weight, as in Llama.
    """
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * wide.to(hidden.dtype)
