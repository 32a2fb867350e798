"""The architecture of a model: read from config.json or from Fast-LLM's metadata.yaml, and run by the forward pass.

Everything that changes the forward pass of a supported model is a field here, and nothing else is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu", "relu"]
"""Fast-LLM's names; its `gelu` is the tanh approximation, `gelu_pytorch_tanh` in Hugging Face."""


@dataclass(frozen=True)
class DefaultRope:
    """Rotary position embeddings as in https://arxiv.org/abs/2104.09864, halves rotated as in Llama."""

    theta: float


@dataclass(frozen=True)
class Llama3Rope:
    """Low frequencies divided by `scale_factor`, high ones kept, a linear blend between.

    https://github.com/meta-llama/llama-models/blob/main/models/llama3/model.py
    """

    theta: float
    scale_factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context_length: int


@dataclass(frozen=True)
class YarnRope:
    """YaRN, https://arxiv.org/abs/2309.00071: interpolation by parts, with the correction range rounded outwards."""

    theta: float
    scale_factor: float
    attention_factor: float
    beta_fast: float
    beta_slow: float
    original_context_length: int


@dataclass(frozen=True)
class ProportionalRope:
    """The first `partial_rotary_factor` of a head's frequencies rotate; the others have angle 0.

    The exponents divide by the whole head size: transformers, modeling_rope_utils.py.
    """

    theta: float
    partial_rotary_factor: float


Rope = DefaultRope | Llama3Rope | YarnRope | ProportionalRope


@dataclass(frozen=True)
class Attention:
    """Causal grouped-query attention; `window` is how many tokens a query attends to, itself included (None: all).

    Scores are divided by head_dim ** `scale_power`. `norm_epsilon`, where set, normalizes each head of query and key
    with a weight and of value without one, before RoPE: arXiv 2302.05442. `shared_key_value`: the value is the key
    before its norm.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None
    qkv_bias: bool
    output_bias: bool
    rope: Rope
    scale_power: float = 0.5
    norm_epsilon: float | None = None
    shared_key_value: bool = False


@dataclass(frozen=True)
class Mlp:
    """Gated MLP; with `experts` a mixture: `experts_per_token` of them run, with weights that sum to one."""

    intermediate: int
    bias: bool
    activation: Activation
    experts: int | None = None
    experts_per_token: int | None = None


@dataclass(frozen=True)
class Block:
    """norm → attention → residual, norm → MLP → residual.

    `post_norms`: attention and MLP are normalized before they are added. `routed` runs beside `mlp` on the same
    residual, each with norms of its own before and after. `output_scale`: a learned number multiplies the output.
    """

    attention: Attention
    mlp: Mlp
    epsilon: float
    post_norms: bool = False
    routed: Mlp | None = None
    output_scale: bool = False


@dataclass(frozen=True)
class Architecture:
    """A decoder: embeddings, blocks in order, final norm, head (`tied`: the embeddings are the head).

    `embedding_scale` multiplies the embeddings. `softcap` bounds the logits: c · tanh(logits / c), arXiv 2408.00118.
    """

    vocabulary: int
    hidden: int
    blocks: tuple[Block, ...]
    epsilon: float
    tied: bool
    embedding_scale: float = 1.0
    softcap: float | None = None
