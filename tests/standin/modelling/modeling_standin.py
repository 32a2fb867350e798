# mypy: ignore-errors
# It is read by transformers alone, whose modules have no types.
"""What Fast-LLM's code of mtp_llama, dream, diffusion_llama, apriel2_text and apriel_hybrid_ssm computes.

It is made of transformers' parts. Blocks, rotations, the scan and both delta rules are those of Llama, Qwen2, Mistral,
Mamba, Qwen3-Next and Kimi Linear. So the tests have a Hugging Face side where Fast-LLM is not there. The names of the
weights are those of the published files.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, MistralConfig, PreTrainedModel, Qwen2Config
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearRMSNormGated
from transformers.models.kimi_linear.modeling_kimi_linear import chunk_kimi_delta_attention as chunk_kda
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.models.mamba.modeling_mamba import mamba_selective_scan
from transformers.models.mistral.modeling_mistral import (
    MistralAttention,
    MistralDecoderLayer,
    MistralMLP,
    MistralRotaryEmbedding,
)
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3_next.modeling_qwen3_next import (
    Qwen3NextRMSNormGated,
)
from transformers.models.qwen3_next.modeling_qwen3_next import (
    torch_chunk_gated_delta_rule as chunk_gated_delta_rule,
)

from .configuration_standin import StandInConfig


def make_mask(hidden: Tensor, padding: Tensor | None, *, causal: bool, window: int | None = None) -> Tensor:
    """Return what is added to scores, (B, 1, T, T)."""
    length = hidden.shape[1]
    at = torch.arange(length)
    seen = (at <= at[:, None]) if causal else torch.ones(length, length, dtype=torch.bool)
    if window is not None:
        seen = seen & (at[:, None] - at < window)
    seen = seen[None, None]
    if padding is not None:
        seen = seen & padding[:, None, None].bool() | torch.eye(length, dtype=torch.bool)
    return torch.zeros(seen.shape, dtype=hidden.dtype).masked_fill(~seen, torch.finfo(hidden.dtype).min)


class StandInModel(PreTrainedModel):
    """Embeddings, blocks, norms and a head; subclasses say which block."""

    config_class = StandInConfig
    base_model_prefix = ""
    _supports_sdpa = True
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (transformers' own form)

    def __init__(self, config: StandInConfig) -> None:
        super().__init__(config)
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def start(self, ids: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the embeddings and the positions."""
        return self.model.embed_tokens(ids), torch.arange(ids.shape[1])[None] if positions is None else positions


class PlainStack(StandInModel):
    """Layers one after the other, a norm and the head; `causal` says whether a token sees only what is before it.

    With a `window` it sees as many tokens, itself included.
    """

    causal = True
    window: int | None = None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        hidden, positions = self.start(input_ids, position_ids)
        mask = make_mask(hidden, attention_mask, causal=self.causal, window=self.window)
        angles = self.model.rotary_emb(hidden, positions)
        for layer in self.model.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=angles)
        return CausalLMOutputWithPast(logits=self.lm_head(self.model.norm(hidden)))


class MTPLlamaForCausalLM(StandInModel):
    """Several prediction heads: each has a last layer and a norm of its own."""

    def __init__(self, config: StandInConfig) -> None:
        super().__init__(config)
        keys = config.to_dict()
        plain = LlamaConfig(**{key: keys[key] for key in keys if key not in ("auto_map", "model_type", "dtype")})
        layers, heads = config.num_hidden_layers, config.prediction_heads
        self.model.layers = nn.ModuleList(LlamaDecoderLayer(plain, layer) for layer in range(layers))
        self.model.mtp_heads = nn.ModuleList(LlamaDecoderLayer(plain, layers + head) for head in range(heads - 1))
        norms = (LlamaRMSNorm(plain.hidden_size, eps=plain.rms_norm_eps) for _ in range(heads))
        self.model.mtp_norms = nn.ModuleList(norms)
        self.model.rotary_emb = LlamaRotaryEmbedding(plain)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_all_prediction_heads: bool = False,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        hidden, positions = self.start(input_ids, position_ids)
        common = {
            "attention_mask": make_mask(hidden, attention_mask, causal=True),
            "position_embeddings": self.model.rotary_emb(hidden, positions),
        }
        for layer in self.model.layers[:-1]:
            hidden = layer(hidden, **common)
        lasts = [self.model.layers[-1], *(self.model.mtp_heads if return_all_prediction_heads else ())]
        normed = [norm(last(hidden, **common)) for last, norm in zip(lasts, self.model.mtp_norms, strict=False)]
        states = torch.stack(normed, dim=2) if return_all_prediction_heads else normed[0]
        return CausalLMOutputWithPast(logits=self.lm_head(states))


class BidirectionalModel(PlainStack):
    """A decoder whose tokens attend both ways: of Qwen2's layers (dream) or Llama's (diffusion_llama)."""

    causal = False

    def __init__(self, config: StandInConfig) -> None:
        super().__init__(config)
        qwen2 = config.architectures == ["DreamModel"]
        keys = {key: value for key, value in config.to_dict().items() if key not in ("auto_map", "model_type", "dtype")}
        plain = (Qwen2Config if qwen2 else LlamaConfig)(**keys)
        kind = Qwen2DecoderLayer if qwen2 else LlamaDecoderLayer
        self.model.layers = nn.ModuleList(kind(plain, layer) for layer in range(plain.num_hidden_layers))
        for layer in self.model.layers:
            layer.self_attn.is_causal = False
        self.model.norm = LlamaRMSNorm(plain.hidden_size, eps=plain.rms_norm_eps)
        self.model.rotary_emb = LlamaRotaryEmbedding(plain)
        self.post_init()


class Apriel2Attention(MistralAttention):
    """Mistral's attention, which makes its own mask and angles of the positions."""

    def __init__(self, sizes: dict[str, Any], hidden: int) -> None:
        heads, head_dim = sizes["heads"], sizes["head_size"]
        config = MistralConfig(
            hidden_size=hidden,
            num_attention_heads=heads,
            num_key_value_heads=sizes.get("head_groups", heads),
            head_dim=head_dim,
            rope_parameters={"rope_type": "default", "rope_theta": sizes["rotary"]["theta"]},
        )
        super().__init__(config, 0)
        self.window, self.rotary = sizes.get("window_size"), MistralRotaryEmbedding(config)

    def forward(self, hidden: Tensor, positions: Tensor, padding: Tensor | None) -> Any:
        mask = make_mask(hidden, padding, causal=True, window=self.window)
        angles = self.rotary(hidden, positions)
        return super().forward(hidden, position_embeddings=angles, attention_mask=mask)


def make_convolution(channels: int, sizes: dict[str, Any]) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, sizes["convolution_layer"]["kernel_size"], groups=channels, bias=False)


def convolve(tensor: Tensor, convolution: nn.Conv1d) -> Tensor:
    """Convolve (B, T, channels) with its past, and activate."""
    padded = functional.pad(tensor.transpose(1, 2), (convolution.kernel_size[0] - 1, 0))
    return functional.silu(convolution(padded)).transpose(1, 2)


class Apriel2GatedDeltaNet(nn.Module):
    """Qwen3-Next's gated delta rule and norm, with projections in Fast-LLM's order."""

    def __init__(self, sizes: dict[str, Any], hidden: int) -> None:
        super().__init__()
        self.sizes = SimpleNamespace(**sizes)
        self.keys = sizes["key_heads"] * sizes["key_head_dim"]
        self.values = sizes["value_heads"] * sizes["value_head_dim"]
        self.in_proj_qkvz = nn.Linear(hidden, 2 * (self.keys + self.values), bias=False)
        self.in_proj_ba = nn.Linear(hidden, 2 * sizes["value_heads"], bias=False)
        self.convolution = make_convolution(2 * self.keys + self.values, sizes)
        self.dt_bias = nn.Parameter(torch.ones(sizes["value_heads"]))
        self.A_log = nn.Parameter(torch.zeros(sizes["value_heads"]))
        self.norm = Qwen3NextRMSNormGated(sizes["value_head_dim"], eps=sizes.get("norm_eps", 1e-5))
        self.out_proj = nn.Linear(self.values, hidden, bias=False)

    def forward(self, hidden: Tensor, *_: Any) -> tuple[Tensor]:
        heads = self.sizes.value_heads
        qkv, gate = self.in_proj_qkvz(hidden).split((2 * self.keys + self.values, self.values), -1)
        query, key, value = convolve(qkv, self.convolution).split((self.keys, self.keys, self.values), -1)
        beta, alpha = self.in_proj_ba(hidden).chunk(2, -1)
        query, key = (t.unflatten(-1, (self.sizes.key_heads, -1)) for t in (query, key))
        query, key = (t.repeat_interleave(heads // self.sizes.key_heads, dim=2) for t in (query, key))
        g = -self.A_log.float().exp() * functional.softplus(alpha.float() + self.dt_bias)
        arguments = (query, key, value.unflatten(-1, (heads, -1)))
        out, _state = chunk_gated_delta_rule(*arguments, g=g, beta=beta.sigmoid(), use_qk_l2norm_in_kernel=True)
        out = self.norm(out, gate.unflatten(-1, (heads, -1)))
        return (self.out_proj(out.flatten(2)),)


class Apriel2KimiDeltaAttention(nn.Module):
    """Kimi Linear's delta rule and norm, with the modules' names of Fast-LLM."""

    def __init__(self, sizes: dict[str, Any], hidden: int) -> None:
        super().__init__()
        self.heads, head_dim = sizes["heads"], sizes["head_dim"]
        size = self.heads * head_dim
        for name in "qkv":
            setattr(self, f"{name}_proj", nn.Linear(hidden, size, bias=False))
            setattr(self, f"{name}_conv", make_convolution(size, sizes))
        for name in "fg":
            setattr(self, f"{name}_a_proj", nn.Linear(hidden, head_dim, bias=False))
            setattr(self, f"{name}_b_proj", nn.Linear(head_dim, size, bias=False))
        self.beta_proj = nn.Linear(hidden, self.heads, bias=False)
        self.dt_bias = nn.Parameter(torch.ones(size))
        self.A_log = nn.Parameter(torch.zeros(self.heads))
        norm = sizes.get("normalization", {})
        self.norm = KimiLinearRMSNormGated(head_dim, eps=norm.get("epsilon", 1e-5))
        self.norm.activation = norm.get("activation", "silu")
        self.o_proj = nn.Linear(size, hidden, bias=False)

    def forward(self, hidden: Tensor, *_: Any) -> tuple[Tensor]:
        modules: dict[str, Any] = dict(self.named_children())
        split = (self.heads, -1)
        q, k, v = (convolve(modules[f"{n}_proj"](hidden), modules[f"{n}_conv"]).unflatten(-1, split) for n in "qkv")
        f, gate = (modules[f"{n}_b_proj"](modules[f"{n}_a_proj"](hidden)) for n in "fg")
        decay = -self.A_log.float().exp()[:, None] * functional.softplus(f.float() + self.dt_bias).unflatten(-1, split)
        beta = self.beta_proj(hidden).float().sigmoid()
        out, _state = chunk_kda(q, k, v, g=decay, beta=beta, use_qk_l2norm_in_kernel=True)
        out = self.norm(out, gate.unflatten(-1, split))
        return (self.o_proj(out.flatten(2)),)


def selective_scan_fn(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, **rest: Any) -> Tensor:
    """Run transformers' scan of Mamba for each head, whose B and C are its own: (B, heads, state, T) each."""
    bias, z = rest.pop("delta_bias"), rest.pop("z")
    parts = zip(
        *(t.chunk(b.shape[1], 1) for t in (x, dt, z)), *(t.chunk(b.shape[1]) for t in (a, d, bias)), strict=True
    )
    return torch.cat(
        [
            mamba_selective_scan(x_h, dt_h, a_h, b[:, h], c[:, h], d_h, z_h, bias_h, **rest)
            for h, (x_h, dt_h, z_h, a_h, d_h, bias_h) in enumerate(parts)
        ],
        dim=1,
    )


class Apriel2Mamba(nn.Module):
    """Mamba's scan with heads: x and B come in groups of heads, as keys and values do, and C as queries do."""

    def __init__(self, sizes: dict[str, Any], hidden: int) -> None:
        super().__init__()
        inner, grouped = sizes["d_inner"], sizes["d_xb"]
        self.inner, self.grouped, self.state = inner, grouped, sizes["state_size"]
        self.in_proj = nn.Linear(hidden, 2 * inner + 2 * grouped, bias=sizes.get("add_linear_biases", False))
        self.conv1d = nn.Conv1d(inner, inner, sizes["d_conv"], groups=inner)
        self.dt_in_proj = nn.Linear(hidden, sizes["dt_rank"], bias=sizes.get("add_linear_biases", False))
        self.dt_proj = nn.Linear(sizes["dt_rank"], inner)
        self.A_log = nn.Parameter(torch.zeros(inner, self.state))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, hidden, bias=sizes.get("add_linear_biases", False))

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        sizes = (self.inner, self.grouped, self.grouped, self.inner)
        z, x, b, c = self.in_proj(hidden).split(sizes, dim=-1)
        x, b, c = (t.unflatten(-1, (-1, self.state)) for t in (x, b, c))
        x, b = (t.repeat_interleave(self.inner // self.grouped, dim=2) for t in (x, b))
        x = convolve(x.flatten(2), self.conv1d)
        dt = self.dt_proj(self.dt_in_proj(hidden))
        y = selective_scan_fn(
            *(x.transpose(1, 2), dt.transpose(1, 2), -self.A_log.float().exp()),
            *(b.permute(0, 2, 3, 1), c.permute(0, 2, 3, 1), self.D.float()),
            z=z.transpose(1, 2),
            delta_bias=self.dt_proj.bias.float(),
            delta_softplus=True,
        )
        return (self.out_proj(y.transpose(1, 2).to(hidden.dtype)),)


MIXERS = {
    "attention": Apriel2Attention,
    "gdn": Apriel2GatedDeltaNet,
    "kda": Apriel2KimiDeltaAttention,
    "mamba": Apriel2Mamba,
}


class Apriel2StochasticMixer(nn.Module):
    """Several mixers, of which the main one runs."""

    def __init__(self, sizes: dict[str, Any], hidden: int) -> None:
        super().__init__()
        self.main_mixer_name = sizes["main_mixer_name"]
        self.mixers = nn.ModuleDict({name: MIXERS[one["type"]](one, hidden) for name, one in sizes["mixers"].items()})

    def forward(self, *arguments: Any) -> Any:
        return self.mixers[self.main_mixer_name](*arguments)


class Apriel2Block(nn.Module):
    """norm, mixer, residual, norm, MLP, residual."""

    def __init__(self, block: dict[str, Any], hidden: int, epsilon: float) -> None:
        super().__init__()
        mixer, mlp = block["mixer"], block["mlp"]
        kind = Apriel2StochasticMixer if mixer["type"] == "stochastic" else MIXERS[mixer["type"]]
        self.mixer = kind(mixer, hidden)
        inner = {"intermediate_size": mlp["intermediate_size"], "hidden_act": mlp["activation"]}
        self.mlp = MistralMLP(SimpleNamespace(hidden_size=hidden, **inner))
        self.input_layernorm = LlamaRMSNorm(hidden, eps=epsilon)
        self.post_attention_layernorm = LlamaRMSNorm(hidden, eps=epsilon)

    def forward(self, hidden: Tensor, *rest: Any) -> Tensor:
        hidden = hidden + self.mixer(self.input_layernorm(hidden), *rest)[0]
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Apriel2ForCausalLM(StandInModel):
    """Nested blocks, of one kind or in a pattern."""

    def __init__(self, config: StandInConfig) -> None:
        super().__init__(config)
        decoder, epsilon = config.decoder, config.head["normalization"]["epsilon"]
        blocks = decoder.get("blocks") or {"": decoder["block"]}
        pattern = decoder.get("pattern") or [""]
        chosen = [blocks[pattern[i % len(pattern)]] for i in range(decoder["num_blocks"])]
        self.model.decoder = nn.Module()
        self.model.decoder.blocks = nn.ModuleList(Apriel2Block(one, config.hidden_size, epsilon) for one in chosen)
        self.model.norm = LlamaRMSNorm(config.hidden_size, eps=epsilon)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        hidden, positions = self.start(input_ids, position_ids)
        for block in self.model.decoder.blocks:
            hidden = block(hidden, positions, attention_mask)
        return CausalLMOutputWithPast(logits=self.lm_head(self.model.norm(hidden)))


class AprielHybridSSMBlock(nn.Module):
    """A layer of Mistral with Mamba in place of attention."""

    def __init__(self, config: StandInConfig) -> None:
        super().__init__()
        ssm, hidden, epsilon = dict(config.ssm_cfg), config.hidden_size, config.rms_norm_eps
        rank = -(-hidden // 16) if ssm["dt_rank"] == "auto" else ssm["dt_rank"]
        self.mixer = Apriel2Mamba({**ssm, "state_size": ssm["d_state"], "dt_rank": rank}, hidden)
        sizes = {"intermediate_size": config.intermediate_size, "hidden_act": config.hidden_act}
        self.mlp = MistralMLP(SimpleNamespace(hidden_size=hidden, **sizes))
        self.input_layernorm = LlamaRMSNorm(hidden, eps=epsilon)
        self.post_attention_layernorm = LlamaRMSNorm(hidden, eps=epsilon)

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        hidden_states = hidden_states + self.mixer(self.input_layernorm(hidden_states))[0]
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class AprielHybridSSMForCausalLM(PlainStack):
    """Layers of Mistral, in some of which Mamba takes the place of attention."""

    def __init__(self, config: StandInConfig) -> None:
        super().__init__(config)
        keys = config.to_dict()
        plain = MistralConfig(**{key: keys[key] for key in keys if key not in ("auto_map", "model_type", "dtype")})
        self.window = plain.sliding_window
        layout = enumerate(config.hybrid_block_layout)
        self.model.layers = nn.ModuleList(
            AprielHybridSSMBlock(config) if kind == "m2" else MistralDecoderLayer(plain, layer)
            for layer, kind in layout
        )
        self.model.norm = LlamaRMSNorm(plain.hidden_size, eps=plain.rms_norm_eps)
        self.model.rotary_emb = MistralRotaryEmbedding(plain)
        self.post_init()
