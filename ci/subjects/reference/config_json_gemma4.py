"""Reads and writes config.json of Gemma 4's text model (`gemma4_text`) as an Architecture.

Keys and defaults are those of transformers, configuration_gemma4.py. Per-layer embeddings, layers that share keys and
values, and bidirectional text attention are refused by name, as Fast-LLM has none of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ci.errors import UnsupportedError
from ci.subjects.reference.config import (
    Architecture,
    Attention,
    Block,
    DefaultRope,
    Mlp,
    ProportionalRope,
)
from ci.subjects.reference.config_json import ACTIVATIONS, FULL, IGNORED_KEYS, NEUTRAL_VALUES, SLIDING
from ci.subjects.reference.config_section import ConfigSection

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME: Final = "gemma4"
MODEL_TYPE, ARCHITECTURE = "gemma4_text", "Gemma4ForCausalLM"
THETAS: Final = {SLIDING: 10_000.0, FULL: 1_000_000.0}
ROTATED: Final = 0.25
"""The default share of a head that rotates in layers with full attention."""
EPSILON, SOFTCAP_KEY = 1e-6, "final_logit_softcapping"
NOT_TEXT: Final[Mapping[str, tuple[object, ...]]] = {
    **NEUTRAL_VALUES,
    "num_kv_shared_layers": (0,),
    "use_double_wide_mlp": (False,),
    "use_bidirectional_attention": (None, "vision"),
    "is_causal": (True, None),
}
"""Keys that must have a value of no effect; "vision" is about image tokens alone."""


def read_gemma4(config: Mapping[str, Any], *, where: str) -> Architecture:
    """Read a config.json. Raises SubjectError for a malformed file, UnsupportedError for an unknown feature."""
    section = ConfigSection(where, config)
    if (model_type := section.take("model_type", str)) != MODEL_TYPE:
        raise UnsupportedError(f"{where}: model_type {model_type!r} is not {MODEL_TYPE!r}, the text model of {NAME!r}")
    section.allow("architectures", [ARCHITECTURE], None)
    hidden, epsilon = section.take_positive("hidden_size", 2304), section.take("rms_norm_eps", float, EPSILON)
    attention = _read_attention(section, epsilon)
    mlp, routed = _read_mlps(section)
    kinds = _read_kinds(section)
    architecture = Architecture(
        vocabulary=section.take_positive("vocab_size", 262_144),
        hidden=hidden,
        blocks=tuple(Block(attention[k], mlp, epsilon, True, routed, True) for k in kinds),
        epsilon=epsilon,
        tied=section.take("tie_word_embeddings", bool, True),
        embedding_scale=hidden**0.5,
        softcap=section.take_optional(SOFTCAP_KEY, float),
    )
    if size := section.take_optional("hidden_size_per_layer_input", int, 256):
        raise section.refusal("hidden_size_per_layer_input", size)
    for key, values in NOT_TEXT.items():
        section.allow(key, *values)
    section.ignore(*IGNORED_KEYS, "vocab_size_per_layer_input", "per_layer_config")
    section.finish()
    return architecture


def _read_attention(section: ConfigSection, epsilon: float) -> dict[str, Attention]:
    """Read the attention of both kinds of layers; only layers with full attention may share key and value."""
    heads, kv_heads = section.take_positive("num_attention_heads", 8), section.take_positive("num_key_value_heads", 4)
    head_dim, window = section.take_positive("head_dim", 256), section.take_positive("sliding_window", 512)
    global_dim = section.take_positive("global_head_dim", 512)
    global_kv_heads = section.take_optional_positive("num_global_key_value_heads")
    shared = section.take("attention_k_eq_v", bool, False)
    theta, (global_theta, rotated) = _read_ropes(section)
    sliding = Attention(
        *(heads, kv_heads, head_dim, window, False, False, DefaultRope(theta)), scale_power=0.0, norm_epsilon=epsilon
    )
    full = replace(
        sliding,
        kv_heads=global_kv_heads if shared and global_kv_heads else kv_heads,
        head_dim=global_dim,
        window=None,
        rope=ProportionalRope(global_theta, rotated),
        shared_key_value=shared,
    )
    for attention in (sliding, full):
        if heads % attention.kv_heads or attention.head_dim % 2:
            raise section.refusal("num_key_value_heads", f"{attention.kv_heads} of {heads} x {attention.head_dim}")
    return {SLIDING: sliding, FULL: full}


def _read_ropes(section: ConfigSection) -> tuple[float, tuple[float, float]]:
    ropes = section.take_section("rope_parameters")
    sliding, full = ropes.take_section(SLIDING), ropes.take_section(FULL)
    sliding.allow("rope_type", "default")
    full.allow("rope_type", "proportional")
    full.allow("factor", 1.0)
    theta = sliding.take("rope_theta", float, THETAS[SLIDING])
    global_rope = full.take("rope_theta", float, THETAS[FULL]), full.take("partial_rotary_factor", float, ROTATED)
    for part in (sliding, full, ropes):
        part.finish()
    return theta, global_rope


def _read_mlps(section: ConfigSection) -> tuple[Mlp, Mlp | None]:
    name = section.take("hidden_activation", str, "gelu_pytorch_tanh")
    if name not in ACTIVATIONS:
        raise section.refusal("hidden_activation", name)
    dense = Mlp(section.take_positive("intermediate_size", 9216), False, ACTIVATIONS[name])
    experts, per_token = (section.take_optional_positive(key) for key in ("num_experts", "top_k_experts"))
    width = section.take_optional_positive("moe_intermediate_size")
    if not section.take("enable_moe_block", bool, False):
        return dense, None
    if not experts or not per_token or not width or per_token > experts:
        raise section.refusal("top_k_experts", f"{per_token} of {experts} experts of width {width}")
    return dense, Mlp(width, False, ACTIVATIONS[name], experts, per_token)


def _read_kinds(section: ConfigSection) -> list[str]:
    """Read the kind of each layer; transformers makes the last one full attention, whatever is said."""
    layers = section.take_positive("num_hidden_layers", 30)
    default = [FULL if (layer + 1) % 6 == 0 else SLIDING for layer in range(layers)]
    kinds = section.take_optional("layer_types", list) or default
    if len(kinds) != layers or not {*kinds} <= {SLIDING, FULL} or kinds[-1] != FULL:
        raise section.refusal("layer_types", kinds)
    return kinds


def write_gemma4(architecture: Architecture, original: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of config.json that say `architecture`, without those that have no effect.

    Raises UnsupportedError where there are not layers of both kinds: nothing says what the other kind would be.
    """
    blocks = architecture.blocks
    full = next((block for block in blocks if isinstance(block.attention.rope, ProportionalRope)), None)
    if full is None:
        raise UnsupportedError(f"a config.json of format {NAME!r} needs a layer with full attention")
    sliding = next((block for block in blocks if block.attention.window is not None), None)
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "vocab_size": architecture.vocabulary,
        "hidden_size": architecture.hidden,
        "num_hidden_layers": len(blocks),
        "layer_types": [FULL if block.attention.window is None else SLIDING for block in blocks],
        "rms_norm_eps": architecture.epsilon,
        "tie_word_embeddings": architecture.tied,
        SOFTCAP_KEY: architecture.softcap,
        "hidden_size_per_layer_input": 0,
        **_write_mlps(full),
        **_write_attention(full.attention, sliding.attention if sliding else None, original),
    }


def _write_mlps(block: Block) -> dict[str, Any]:
    activation = next(name for name, known in ACTIVATIONS.items() if known == block.mlp.activation)
    written = {
        "intermediate_size": block.mlp.intermediate,
        "hidden_activation": activation,
        "enable_moe_block": block.routed is not None,
    }
    if block.routed is None:
        return written
    routed = block.routed
    experts = {"num_experts": routed.experts, "top_k_experts": routed.experts_per_token}
    return {**written, **experts, "moe_intermediate_size": routed.intermediate}


def _write_attention(full: Attention, sliding: Attention | None, original: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of both kinds; those of sliding layers are the original's where no layer slides."""
    assert isinstance(full.rope, ProportionalRope)  # noqa: S101 (narrowing only)
    ropes = {
        FULL: {
            "rope_type": "proportional",
            "rope_theta": full.rope.theta,
            "partial_rotary_factor": full.rope.partial_rotary_factor,
        },
    }
    keys = ("num_key_value_heads", "head_dim", "sliding_window")
    local = {key: original[key] for key in keys if key in original}
    kept = (original.get("rope_parameters") or {}).get(SLIDING) or {}
    theta = sliding.rope.theta if sliding else kept.get("rope_theta", THETAS[SLIDING])
    ropes[SLIDING] = {"rope_type": "default", "rope_theta": theta}
    if sliding:
        local = dict(zip(keys, (sliding.kv_heads, sliding.head_dim, sliding.window), strict=True))
    return {
        "num_attention_heads": full.heads,
        "attention_k_eq_v": full.shared_key_value,
        "global_head_dim": full.head_dim,
        "num_global_key_value_heads": full.kv_heads if full.shared_key_value else None,
        "rope_parameters": ropes,
        **local,
    }
