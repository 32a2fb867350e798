"""Writes an Architecture as the configuration tree of Fast-LLM's metadata.yaml."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ci.subjects.reference.config import Attention, StochasticMixer
from ci.subjects.reference.metadata_yaml import LAYERS, ROPES
from ci.subjects.reference.metadata_yaml_delta import write_delta_mixer

if TYPE_CHECKING:
    from ci.subjects.reference.config import Architecture, Block, Mixer, Mlp, Rope, VisionTower


def write_base_model(architecture: Architecture) -> dict[str, Any]:
    """Return `config.base_model` of an architecture: a fixed decoder where all blocks are equal, else a pattern."""
    vision = {} if architecture.vision is None else _write_vision(architecture.vision, architecture)
    return {
        **vision,
        "embeddings": {"vocab_size": architecture.vocabulary, "embedding_scale": architecture.embedding_scale},
        "decoder": _write_decoder(architecture.blocks, architecture.hidden),
        "head": {
            "normalization": _write_norm(architecture.epsilon),
            "prediction_heads": architecture.prediction_heads,
            "final_logit_softcap": architecture.softcap,
        },
        "hidden_size": architecture.hidden,
        "tied_embedding_weight": architecture.tied,
        "peft": {"type": "none"},
    }


def _write_vision(vision: VisionTower, architecture: Architecture) -> dict[str, Any]:
    patches = {"patch_height": vision.patch, "patch_width": vision.patch, "normalization": _write_norm(vision.epsilon)}
    projector = {
        "type": "mlp",
        "intermediate_size": architecture.hidden,
        "gated": False,
        "activation": vision.projector,
        "add_linear_biases": vision.projector_bias,
    }
    tower = {"embeddings": patches, "encoder": _write_decoder(vision.blocks, vision.hidden), "adapter": projector}
    return {
        "vision_encoder": {**tower, "hidden_size": vision.hidden},
        "image_token_index": architecture.image_token,
    }


def _write_decoder(blocks: tuple[Block, ...], hidden: int) -> dict[str, Any]:
    kinds = {block: f"block_{number}" for number, block in enumerate(dict.fromkeys(blocks))}
    if len(kinds) == 1:
        return {"type": "fixed", "num_blocks": len(blocks), "block": _write_block(blocks[0], hidden)}
    return {
        "type": "pattern",
        "num_blocks": len(blocks),
        "blocks": {name: _write_block(block, hidden) for block, name in kinds.items()},
        "pattern": [kinds[block] for block in blocks],
    }


def _write_norm(epsilon: float) -> dict[str, Any]:
    return {"type": "rms_norm", "epsilon": epsilon, "zero_centered": False}


def _write_block(block: Block, hidden: int) -> dict[str, Any]:
    norm = _write_norm(block.epsilon)
    written = {
        "type": "decoder",
        "mixer": _write_mixer(block.mixer),
        "mlp": _write_mlp(block.mlp),
        "normalization": norm,
    }
    if block.post_norms:
        written |= {"post_mixer_normalization": norm, "post_mlp_normalization": norm}
    if block.output_scale:
        written["output_scale"] = {"enabled": True, "lr_scale": 0.0}  # Hugging Face has it as a buffer
    if block.routed is not None:
        dense, routed = ({**_write_mlp(mlp), "pre_norm": norm, "post_norm": norm} for mlp in (block.mlp, block.routed))
        written["mlp"] = {
            "type": "hybrid_moe",
            "dense": dense,
            "routed": {**routed, **_write_scaled_router(block, hidden)},
        }
        written["pre_mlp_normalization"] = {"type": "none"}
    return written


def _write_scaled_router(block: Block, hidden: int) -> dict[str, Any]:
    return {
        "router_normalization": {"type": "fixed_rms_norm", "epsilon": block.epsilon},
        "router_scale": {"enabled": True},
        "router_input_scale": hidden**-0.5,
        "router_per_expert_scale": {"enabled": True},
    }


def _write_mixer(mixer: Mixer) -> dict[str, Any]:
    if isinstance(mixer, StochasticMixer):
        mixers = {name: _write_mixer(each) for name, each in mixer.mixers}
        return {"type": "stochastic", "main_mixer_name": mixer.main, "mixers": mixers}
    return _write_attention(mixer) if isinstance(mixer, Attention) else write_delta_mixer(mixer)


def _write_attention(attention: Attention) -> dict[str, Any]:
    written = {
        "type": "attention",
        "heads": attention.heads,
        "head_groups": attention.kv_heads,
        "head_size": attention.head_dim,
        "causal": attention.causal,
        "softmax_scale_power": attention.scale_power,
        "add_linear_biases": attention.output_bias,
        "rotary": {"type": _rope_name(attention.rope), **dataclasses.asdict(attention.rope)},
    }
    if attention.norm_epsilon is not None:
        weighted = {"type": "rms_norm", "epsilon": attention.norm_epsilon}
        written |= {"query_norm": weighted, "key_norm": weighted, "value_norm": {**weighted, "type": "fixed_rms_norm"}}
    if attention.shared_key_value:
        written["shared_key_value"] = True
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
