"""The decoder's forward pass over Fast-LLM's parameters: embeddings, blocks, head. Functions of tensors, no state.

Casts follow transformers, so that low precision errs alike: norms in float32 and back, rotary tables in float32 and
then cast, softmax in float32, residuals in the model's dtype. In float64 all but the rotary tables is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu, linear, relu, silu

from ci.subjects.reference.attention import ATTENTION, Ran, Visibility
from ci.subjects.reference.config import Architecture, Attention, Mlp
from ci.subjects.reference.convert import EMBEDDINGS, FINAL_NORM, HEAD
from ci.subjects.reference.moe import MOE, Experts, route
from ci.subjects.reference.product import transposed_linear
from ci.subjects.reference.rope import tables, turned

if TYPE_CHECKING:
    from ci.subjects.reference.config import Activation

Tap = Callable[[str, Tensor], None]
"""Sees each named tensor of the forward pass as it is computed."""

ACTIVATIONS: Final[Mapping[Activation, Callable[[Tensor], Tensor]]] = {
    "silu": silu,
    "gelu": lambda x: gelu(x, approximate="tanh"),
    "relu": relu,
}


@dataclass(frozen=True)
class Context:
    """What every block of one forward pass shares: positions and documents (B, T), and how to compute."""

    positions: Tensor
    documents: Tensor | None = None
    attention: str = "eager"
    moe: str = "looped"
    ran: Ran = field(default_factory=Ran)


@dataclass(frozen=True)
class Model:
    """An architecture and its parameters by Fast-LLM's names, all of one dtype and on one device."""

    architecture: Architecture
    weights: Mapping[str, Tensor]

    def embed(self, ids: Tensor) -> Tensor:
        """(B, T) ids to (B, T, hidden)."""
        return embedding(ids, self.weights[EMBEDDINGS])

    def block(self, index: int, hidden: Tensor, context: Context, tap: Tap) -> Tensor:
        """Block `index` over (B, T, hidden). Names given to `tap` are Fast-LLM's, below `decoder.<index>`."""
        block, name = self.architecture.blocks[index], f"decoder.{index}"
        normed = rms_norm(hidden, self.weights[f"{name}.norm_1.weight"], block.epsilon)
        tap(f"{name}.norm_1", normed)
        mixed = self._attention(f"{name}.mixer", block.attention, normed, context, tap)
        hidden = hidden + mixed
        tap(f"{name}.mixer_residual", hidden)
        normed = rms_norm(hidden, self.weights[f"{name}.norm_2.weight"], block.epsilon)
        tap(f"{name}.norm_2", normed)
        mlp = self._mlp if block.mlp.experts is None else self._mixture
        hidden = hidden + mlp(f"{name}.mlp", block.mlp, normed, context, tap)
        tap(name, hidden)
        return hidden

    def head(self, hidden: Tensor, tap: Tap) -> Tensor:
        """Final norm and logits (B, T, vocabulary)."""
        normed = rms_norm(hidden, self.weights[FINAL_NORM], self.architecture.epsilon)
        tap("final_norm", normed)
        logits = linear(normed, self.weights[EMBEDDINGS if self.architecture.tied else HEAD])
        tap("logits", logits)
        return logits

    def _linear(self, name: str, tensor: Tensor) -> Tensor:
        return linear(tensor, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _attention(self, name: str, attention: Attention, normed: Tensor, context: Context, tap: Tap) -> Tensor:
        batch, length, _ = normed.shape
        query = self._linear(f"{name}.query", normed).view(batch, length, attention.heads, -1)
        key_value = self._linear(f"{name}.key_value", normed).view(batch, length, 2 * attention.kv_heads, -1)
        key, value = key_value.chunk(2, dim=2)
        cos, sin = tables(attention.rope, attention.head_dim, context.positions, normed.dtype)
        query, key = turned(query, cos, sin), turned(key, cos, sin)
        for of, tensor in (("query", query), ("key", key), ("value", value)):
            tap(f"{name}.{of}", tensor)
        visibility = Visibility(context.documents, attention.window)
        mixed = ATTENTION[context.attention](query, key, value, visibility, context.ran)
        tap(f"{name}.context", mixed)
        answer = self._linear(f"{name}.dense", mixed)
        tap(name, answer)
        return answer

    def _mlp(self, name: str, mlp: Mlp, normed: Tensor, _: Context, tap: Tap) -> Tensor:
        gate, up = self._linear(f"{name}.layer_1", normed).chunk(2, dim=-1)
        answer = transposed_linear(ACTIVATIONS[mlp.activation](gate) * up, self.weights[f"{name}.layer_2.weight"])
        if mlp.bias:
            answer = answer + self.weights[f"{name}.layer_2.bias"]
        tap(name, answer)
        return answer

    def _mixture(self, name: str, mlp: Mlp, normed: Tensor, context: Context, tap: Tap) -> Tensor:
        count, per_token = mlp.experts or 0, mlp.experts_per_token or 0
        tokens = normed.flatten(0, 1)
        routing = route(tokens, self.weights[f"{name}.router.weight"], per_token)
        tap(f"{name}.router_logits", routing.logits)
        tap(f"{name}.router_top_experts", routing.experts)
        tap(f"{name}.router_scores", routing.scores)
        experts = Experts(
            gate_up=self.weights[f"{name}.layer_1.weight"].view(count, -1, tokens.shape[1]),
            down=self.weights[f"{name}.layer_2.weight"].view(count, -1, tokens.shape[1]),
            activation=ACTIVATIONS[mlp.activation],
        )
        answer = MOE[context.moe](tokens, routing, experts, context.ran).view_as(normed)
        tap(name, answer)
        return answer


def rms_norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """https://arxiv.org/abs/1910.07467, in float32 at least; cast back before the weight, as in Llama."""
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * wide.to(hidden.dtype)
