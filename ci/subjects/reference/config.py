"""The architecture of a model: read from config.json or from Fast-LLM's metadata.yaml, and run by the forward pass.

Everything that changes the forward pass of a supported model is a field here, and nothing else is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ci.errors import UnsupportedError

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


@dataclass(frozen=True)
class AxialRope:
    """RoPE of two coordinates: even frequencies rotate by the line of a patch, odd ones by its column.

    transformers, modeling_pixtral.py, `PixtralVisionRotaryEmbedding`.
    """

    theta: float


Rope = DefaultRope | Llama3Rope | YarnRope | ProportionalRope | AxialRope


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention; `window` is how many tokens a query attends to, itself included (None: all).

    Not `causal`: a query attends to the tokens after it too.

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
    causal: bool = True


@dataclass(frozen=True)
class GatedDeltaNet:
    """A gated delta net, https://arxiv.org/abs/2412.06464, in the layout of Fast-LLM's gdn.py.

    `kernel`: the width of the causal convolution over query, key and value. `epsilon`: of the gated norm of its output.
    """

    value_heads: int
    key_heads: int
    key_head_dim: int
    value_head_dim: int
    kernel: int
    epsilon: float = 1e-5


@dataclass(frozen=True)
class KimiDeltaAttention:
    """Kimi delta attention, https://arxiv.org/abs/2510.26692: a delta rule whose decay differs between channels.

    `gate`: the activation of the output's gate; Kimi Linear has a sigmoid, Fast-LLM's default is silu.
    """

    heads: int
    head_dim: int
    kernel: int
    epsilon: float = 1e-5
    gate: Literal["silu", "sigmoid"] = "silu"


@dataclass(frozen=True)
class Mamba:
    """A selective scan with grouped heads, https://arxiv.org/abs/2312.00752, in the layout of Fast-LLM's mamba.py.

    `inner` channels, in heads of `state`; `grouped` of them before x and B are repeated; `rank` of the steps'
    projection; `kernel`: the width of the convolution. `bias`: of the other projections.
    """

    inner: int
    grouped: int
    state: int
    rank: int
    kernel: int
    bias: bool
    convolution_bias: bool
    step_bias: bool


SingleMixer = Attention | GatedDeltaNet | KimiDeltaAttention | Mamba


@dataclass(frozen=True)
class StochasticMixer:
    """Several mixers by name, of which training draws one; outside of it the `main` one runs, or a chosen one."""

    mixers: tuple[tuple[str, SingleMixer], ...]
    main: str

    def choose(self, name: str) -> tuple[str, SingleMixer]:
        """Return the name and the mixer that runs: the main one where no name is given."""
        return name or self.main, dict(self.mixers)[name or self.main]


Mixer = SingleMixer | StochasticMixer


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
    """norm → mixer → residual, norm → MLP → residual.

    `post_norms`: mixer and MLP are normalized before they are added. `routed` runs beside `mlp` on the same
    residual, each with norms of its own before and after. `output_scale`: a learned number multiplies the output.
    """

    mixer: Mixer
    mlp: Mlp
    epsilon: float
    post_norms: bool = False
    routed: Mlp | None = None
    output_scale: bool = False

    @property
    def main_mixer(self) -> SingleMixer:
        """The mixer that runs where none is chosen."""
        return self.mixer.choose("")[1] if isinstance(self.mixer, StochasticMixer) else self.mixer

    @property
    def attention(self) -> Attention:
        """The mixer of a block that has attention alone. Raises UnsupportedError for another mixer."""
        if not isinstance(self.mixer, Attention):
            raise UnsupportedError(f"this is implemented for attention alone, not for {type(self.mixer).__name__}")
        return self.mixer


@dataclass(frozen=True)
class VisionTower:
    """Patches of images, each normalized, through blocks in which an image attends to itself alone, and a projector.

    The projector is linear, activation, linear, as wide as the decoder: transformers, modeling_llava.py. Its exact gelu
    is not Fast-LLM's `gelu`.
    """

    hidden: int
    patch: int
    blocks: tuple[Block, ...]
    epsilon: float
    projector: Activation | Literal["gelu_exact"]
    projector_bias: bool
    channels: int = 3

    @property
    def patch_size(self) -> int:
        """The number of values of a patch."""
        return self.channels * self.patch * self.patch


@dataclass(frozen=True)
class Architecture:
    """A decoder: embeddings, blocks in order, final norm, head (`tied`: the embeddings are the head).

    `embedding_scale` multiplies the embeddings. `softcap` bounds the logits: c · tanh(logits / c), arXiv 2408.00118.
    With several `prediction_heads` head k predicts the token k + 1 places further: each after the first runs a block of
    its own, like the last one, on that one's input, and a norm of its own, and shares the output matrix. As Fast-LLM's
    mtp_llama has it; the idea is of https://arxiv.org/abs/2404.19737. With a `vision` tower its features are put where
    the `image_token` is.
    """

    vocabulary: int
    hidden: int
    blocks: tuple[Block, ...]
    epsilon: float
    tied: bool
    embedding_scale: float = 1.0
    softcap: float | None = None
    prediction_heads: int = 1
    vision: VisionTower | None = None
    image_token: int = 0

    @property
    def mixers(self) -> tuple[SingleMixer, ...]:
        """Every mixer of every block, those of a stochastic one each."""
        mixers = [block.mixer for block in self.blocks]
        named = (m.mixers if isinstance(m, StochasticMixer) else (("", m),) for m in mixers)
        return tuple(mixer for group in named for _, mixer in group)
