"""A tiny model whose modelling code travels with it: attention, a delta rule, a second prediction head."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

CONFIGURATION = """
from transformers import PretrainedConfig


class TinyConfig(PretrainedConfig):
    model_type = "tiny_own_code"

    def __init__(self, hidden_size=24, vocab_size=53, decoder=None, heads=2, causal=True, **kwargs):
        self.hidden_size, self.vocab_size, self.heads, self.causal = hidden_size, vocab_size, heads, causal
        self.decoder = decoder
        super().__init__(**kwargs)

    def get_text_config(self, decoder=False):
        return self
"""

MODELLING = """
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_tiny import TinyConfig

try:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule
except ImportError:
    chunk_gated_delta_rule = None


def apply_rotary_pos_emb(q, k, cos, sin):
    def rotate(x):
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    return rotate(q), rotate(k)


def eager_attention_forward(q, k, v, seen):
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


class TinyAttention(nn.Module):
    def __init__(self, config, causal=True):
        super().__init__()
        self.config, self.head_dim, self.is_causal = config, 6, config.causal
        self.q_proj = nn.Linear(config.hidden_size, 18, bias=True)
        self.k_proj = nn.Linear(config.hidden_size, 18, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, 18, bias=False)
        self.o_proj = nn.Linear(18, config.hidden_size, bias=False)

    def forward(self, hidden_states, seen, angles):
        shape = (*hidden_states.shape[:2], 3, 6)
        q, k, v = (p(hidden_states).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
        if self.config._attn_implementation == "eager":
            out = eager_attention_forward(q, k, v, seen)
        else:
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return (self.o_proj(out.transpose(1, 2).reshape(*hidden_states.shape[:2], 18)),)


class TinyDelta(nn.Module):
    def __init__(self, config):
        super().__init__()
        if chunk_gated_delta_rule is None:
            raise ImportError("fla is needed")
        self.in_proj = nn.Linear(config.hidden_size, 2 * 5 * 2 + 2 * 7, bias=False)
        self.gates = nn.Linear(config.hidden_size, 4, bias=False)
        self.dt_bias, self.A_log = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
        self.norm, self.out_proj = nn.LayerNorm(7), nn.Linear(14, config.hidden_size, bias=False)

    def forward(self, hidden_states, *_):
        q, k, v = self.in_proj(hidden_states).split((10, 10, 14), -1)
        q, k, v = q.unflatten(-1, (2, 5)), k.unflatten(-1, (2, 5)), v.unflatten(-1, (2, 7))
        beta, alpha = self.gates(hidden_states).chunk(2, -1)
        g = -self.A_log.float().exp() * functional.softplus(alpha.float() + self.dt_bias)
        out, _ = chunk_gated_delta_rule(q, k, v, g=g, beta=beta.sigmoid(), use_qk_l2norm_in_kernel=True)
        return (self.out_proj(self.norm(out).flatten(-2)),)


class Several(nn.Module):
    def __init__(self, config, main):
        super().__init__()
        self.main_mixer_name = main
        self.mixers = nn.ModuleDict({"attention": TinyAttention(config), "gdn": TinyDelta(config)})

    def forward(self, hidden_states, *rest):
        return self.mixers[self.main_mixer_name](hidden_states, *rest)


class TinyBlock(nn.Module):
    def __init__(self, config, kind):
        super().__init__()
        kinds = {"attention": TinyAttention, "gdn": TinyDelta}
        self.mixer = kinds[kind](config) if kind in kinds else Several(config, kind.removeprefix("main-"))
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=1e-5)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=1e-5)
        self.mlp = nn.Sequential(nn.Linear(config.hidden_size, 31), nn.SiLU(), nn.Linear(31, config.hidden_size))

    def forward(self, hidden_states, *rest):
        hidden_states = hidden_states + self.mixer(self.input_layernorm(hidden_states), *rest)[0]
        return (hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)),)


class TinyModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        kinds, count = config.decoder["pattern"], config.decoder["num_blocks"]
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(TinyBlock(config, kinds[i % len(kinds)]) for i in range(count))
        self.mtp_heads = nn.ModuleList(TinyBlock(config, "attention") for _ in range(config.heads - 1))
        self.norms = nn.ModuleList(nn.RMSNorm(config.hidden_size, eps=1e-5) for _ in range(config.heads))


class TinyForCausalLM(PreTrainedModel):
    config_class = TinyConfig
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.model = TinyModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask=None, position_ids=None, return_all_prediction_heads=False, **_):
        hidden_states, length = self.model.embed_tokens(input_ids), input_ids.shape[1]
        at = torch.arange(length) if position_ids is None else position_ids[:, None]
        angles = at[..., None] * 50.0 ** -(torch.arange(3, dtype=hidden_states.dtype) / 3)
        seen = torch.ones(length, length, dtype=torch.bool)
        seen = (seen.tril() if self.config.causal else seen)[None, None]
        if attention_mask is not None:
            seen = seen & attention_mask[:, None, None].bool() | torch.eye(length, dtype=torch.bool)
        for layer in self.model.layers[:-1]:
            hidden_states = layer(hidden_states, seen, angles)[0]
        blocks = [self.model.layers[-1], *(self.model.mtp_heads if return_all_prediction_heads else ())]
        latents = [norm(block(hidden_states, seen, angles)[0]) for norm, block in zip(self.model.norms, blocks)]
        if len(latents) > 1:
            return CausalLMOutputWithPast(logits=self.lm_head(torch.stack(latents, dim=-2)))
        return CausalLMOutputWithPast(logits=self.lm_head(latents[0]))
"""
BROKEN = """
import torch


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("a broken backward pass")
"""
AUTO_MAP = {"AutoConfig": "configuration_tiny.TinyConfig", "AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM"}


def save_code(directory: Path) -> Path:
    """The model's Python files."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "configuration_tiny.py").write_text(CONFIGURATION, encoding="utf-8")
    (directory / "modeling_tiny.py").write_text(MODELLING, encoding="utf-8")
    return directory


def break_backward(directory: Path) -> Path:
    """Let the backward pass of the saved code raise, and leave its forward pass right."""
    file = directory / "modeling_tiny.py"
    right, lookup = file.read_text(encoding="utf-8"), "self.model.embed_tokens(input_ids)"
    assert right.count(lookup) == 1
    file.write_text(BROKEN + right.replace(lookup, f"Broken.apply({lookup})"), encoding="utf-8")
    return directory


def save_config(directory: Path, pattern: tuple[str, ...] = ("attention", "gdn"), **changes: Any) -> Path:
    """A directory with config.json alone: blocks of these kinds, repeated to three."""
    directory.mkdir(parents=True, exist_ok=True)
    decoder = {"num_blocks": 3, "pattern": list(pattern), "blocks": {kind: {} for kind in pattern}}
    config = {"model_type": "tiny_own_code", "auto_map": AUTO_MAP, "hidden_size": 24, "vocab_size": 53, "heads": 2}
    (directory / "config.json").write_text(json.dumps({**config, "decoder": decoder, **changes}), encoding="utf-8")
    return directory
