"""Writes an Architecture as the configuration tree of Fast-LLM's metadata.yaml."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ci.subjects.reference.metadata_yaml import LAYERS, ROPES

if TYPE_CHECKING:
    from ci.subjects.reference.config import Architecture, Attention, Block, Mlp, Rope


def write_base_model(architecture: Architecture) -> dict[str, Any]:
    """Return `config.base_model` of an architecture: a fixed decoder where all blocks are equal, else a pattern."""
    return {
        "embeddings": {"vocab_size": architecture.vocabulary, "embedding_scale": 1.0},
        "decoder": _write_decoder(architecture.blocks),
        "head": {
            "normalization": _write_norm(architecture.epsilon),
            "prediction_heads": 1,
            "final_logit_softcap": None,
        },
        "hidden_size": architecture.hidden,
        "tied_embedding_weight": architecture.tied,
        "peft": {"type": "none"},
    }


def _write_decoder(blocks: tuple[Block, ...]) -> dict[str, Any]:
    kinds = {block: f"block_{number}" for number, block in enumerate(dict.fromkeys(blocks))}
    if len(kinds) == 1:
        return {"type": "fixed", "num_blocks": len(blocks), "block": _write_block(blocks[0])}
    return {
        "type": "pattern",
        "num_blocks": len(blocks),
        "blocks": {name: _write_block(block) for block, name in kinds.items()},
        "pattern": [kinds[block] for block in blocks],
    }


def _write_norm(epsilon: float) -> dict[str, Any]:
    return {"type": "rms_norm", "epsilon": epsilon, "zero_centered": False}


def _write_block(block: Block) -> dict[str, Any]:
    return {
        "type": "decoder",
        "mixer": _write_attention(block.attention),
        "mlp": _write_mlp(block.mlp),
        "normalization": _write_norm(block.epsilon),
    }


def _write_attention(attention: Attention) -> dict[str, Any]:
    written = {
        "type": "attention",
        "heads": attention.heads,
        "head_groups": attention.kv_heads,
        "head_size": attention.head_dim,
        "causal": True,
        "softmax_scale_power": 0.5,
        "add_linear_biases": attention.output_bias,
        "rotary": {"type": _rope_name(attention.rope), **dataclasses.asdict(attention.rope)},
    }
    if attention.window is not None:
        written["window_size"] = attention.window
    if attention.qkv_bias != attention.output_bias:
        has = dict.fromkeys(LAYERS[:3], attention.qkv_bias) | {LAYERS[3]: attention.output_bias}
        written |= {layer: {"bias": {"enabled": enabled}} for layer, enabled in has.items()}
    return written


def _rope_name(rope: Rope) -> str:
    return next(name for name, kind in ROPES.items() if type(rope) is kind)


def _write_mlp(mlp: Mlp) -> dict[str, Any]:
    written: dict[str, Any] = {
        "type": "mlp",
        "intermediate_size": mlp.intermediate,
        "gated": True,
        "activation": mlp.activation,
        "add_linear_biases": mlp.bias,
    }
    if mlp.experts is not None:
        routing = {"routing": "aux_loss", "shared_experts": 0, "router_input_scale": 1.0}
        written |= {"type": "moe", "experts": mlp.experts, "experts_per_token": mlp.experts_per_token, **routing}
    return written
