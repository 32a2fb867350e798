"""metadata.yaml of Fast-LLM's checkpoint format, read into an Architecture.

The tree is Fast-LLM's GPTBaseModelConfig (fast_llm/models/gpt/config.py of version 0.4); keys that it leaves out
have the defaults of its configuration classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from ci.subjects.reference.config import (
    Activation,
    Architecture,
    Attention,
    Block,
    DefaultRope,
    Llama3Rope,
    Mlp,
    Rope,
    YarnRope,
)
from ci.subjects.reference.section import Section

ROPES: Final[dict[str, type[Rope]]] = {"default": DefaultRope, "llama3": Llama3Rope, "yarn": YarnRope}
ACTIVATIONS: Final[tuple[Activation, ...]] = ("silu", "gelu", "relu")
LAYERS: Final = ("query_layer", "key_layer", "value_layer", "dense_layer")


def read_base_model(tree: object, *, where: str = "metadata.yaml") -> Architecture:
    """Read `config.base_model`. Raises SubjectError where malformed, UnsupportedError for what is not implemented."""
    section = Section(f"{where}: base_model", tree)
    section.inert("type", "lr_scale", "use_megatron_initialization")
    peft = section.section("peft")
    peft.allow("type", "none")
    peft.finish()
    embeddings, head = section.section("embeddings"), section.section("head")
    architecture = Architecture(
        vocabulary=_embeddings(embeddings),
        hidden=section.positive("hidden_size", 1024),
        blocks=_decoder(section.section("decoder")),
        epsilon=_head(head),
        tied=section.take("tied_embedding_weight", bool, False),
    )
    section.finish()
    return architecture


def _embeddings(section: Section) -> int:
    vocabulary = section.positive("vocab_size", 49152)
    _no_optional(section, "position_embeddings")
    section.allow("embedding_scale", 1.0)
    section.allow("full_precision_residual", False)
    section.inert("type", "lr_scale", "word_embeddings", "num_position_embeddings", "dropout", "vocab_parallel")
    section.finish()
    return vocabulary


def _head(section: Section) -> float:
    epsilon = _norm(section.section("normalization"))
    section.allow("prediction_heads", 1)
    section.allow("final_logit_softcap", None)
    section.allow("logits_scale_factor", 1.0)
    section.inert("type", "lr_scale", "output_weight", "cross_entropy_splits")
    section.inert("losses", "loss_implementation", "prediction_loss_coefficient")
    section.finish()
    return epsilon


def _norm(section: Section) -> float:
    if (kind := section.take("type", str, "layer_norm")) != "rms_norm":
        raise section.refused("type", kind)
    epsilon = section.take("epsilon", float, 1e-5)
    section.allow("zero_centered", False)
    section.inert("weight", "lr_scale", "implementation")
    section.finish()
    return epsilon


def _decoder(section: Section) -> tuple[Block, ...]:
    """`fixed` repeats one block; `pattern` repeats a list of named ones; both up to `num_blocks`."""
    kind, count = section.take("type", str, "fixed"), section.positive("num_blocks", 12)
    section.inert("lr_scale")
    if kind == "fixed":
        blocks, pattern = {"": section.take("block", dict)}, [""]
    elif kind == "pattern":
        blocks, pattern = section.take("blocks", dict), section.take("pattern", list)
    else:
        raise section.refused("type", kind)
    section.finish()
    if not pattern or not {*pattern} <= {*blocks}:
        raise section.refused("pattern", pattern)
    read = {name: _block(Section(f"{section.where}: block {name}".rstrip(), blocks[name])) for name in blocks}
    return tuple(read[pattern[i % len(pattern)]] for i in range(count))


def _block(section: Section) -> Block:
    section.allow("type", "decoder")
    for place in ("pre_mixer", "pre_mlp", "post_mixer", "post_mlp"):
        section.allow(f"{place}_normalization", None)
    _no_optional(section, "output_scale")
    block = Block(
        attention=_attention(section.section("mixer")),
        mlp=_mlp(section.section("mlp")),
        epsilon=_norm(section.section("normalization")),
    )
    section.inert("lr_scale", "dropout", "distillation_model", "distillation_loss_weight")
    section.finish()
    return block


def _attention(section: Section) -> Attention:
    section.allow("type", "attention")
    default = section.take("add_linear_biases", bool, True)
    query, key, value, dense = (_bias(section.section(layer), default) for layer in LAYERS)
    if not query == key == value:
        raise section.refused("key_layer", f"bias {key}, query_layer {query}, value_layer {value}")
    section.allow("causal", True)
    section.allow("softmax_scale_power", 0.5)
    section.allow("shared_key_value", False)
    for norm in ("query_norm", "key_norm", "value_norm"):
        section.allow(norm, None)
    attention = Attention(
        heads=section.positive("heads", 8),
        kv_heads=section.positive("head_groups", 1),
        head_dim=section.positive("head_size", 128),
        window=section.optional_positive("window_size"),
        qkv_bias=query,
        output_bias=dense,
        rope=_rope(section.section("rotary")),
    )
    if attention.heads % attention.kv_heads or attention.head_dim % 2:
        raise section.refused("head_groups", f"{attention.kv_heads} of {attention.heads} x {attention.head_dim}")
    section.inert("lr_scale", "dropout", "use_flash_attention", "implementation")
    section.finish()
    return attention


def _rope(section: Section) -> Rope:
    kind = section.take("type", str, "none")
    if kind not in ROPES:
        raise section.refused("type", kind)
    values: dict[str, Any] = {
        field.name: section.take(field.name, int if field.type == "int" else float)
        for field in dataclasses.fields(ROPES[kind])
    }
    rope = ROPES[kind](**values)
    section.finish()
    return rope


def _mlp(section: Section) -> Mlp:
    kind, default = section.take("type", str, "mlp"), section.take("add_linear_biases", bool, True)
    first, second = (_bias(section.section(layer), default) for layer in ("layer_1", "layer_2"))
    if kind not in ("mlp", "moe") or first != second or (kind == "moe" and first):
        raise section.refused("type", f"{kind} with biases {first}, {second}")
    section.allow("pre_norm", None)
    section.allow("post_norm", None)
    if not section.take("gated", bool, False):
        raise section.refused("gated", False)
    name = section.take("activation", str, "silu")
    activation = next((known for known in ACTIVATIONS if known == name), None)
    if activation is None:
        raise section.refused("activation", name)
    intermediate = section.positive("intermediate_size", 4096)
    experts, per_token = _experts(section) if kind == "moe" else (None, None)
    section.inert("lr_scale", "recompute_level")
    section.finish()
    return Mlp(intermediate, first, activation, experts, per_token)


def _experts(section: Section) -> tuple[int, int]:
    router = section.section("router")
    router.inert("weight", "lr_scale", "apply_peft")
    router.finish()
    section.allow("router_normalization", None)
    section.allow("router_input_scale", 1.0)
    _no_optional(section, "router_scale")
    _no_optional(section, "router_per_expert_scale")
    section.allow("shared_experts", 0)
    section.allow("routing", "aux_loss")  # Fast-LLM's name for top-k
    section.inert("auxiliary_loss_coefficient", "z_loss_coefficient", "jitter_eps")
    section.inert("implementation", "dropless_dynamic_shape")
    experts, per_token = section.positive("experts", 2), section.positive("experts_per_token", 1)
    if per_token > experts:
        raise section.refused("experts_per_token", f"{per_token} of {experts}")
    return experts, per_token


def _bias(layer: Section, default: bool) -> bool:
    """Whether a linear layer has a bias: its own say, else its parent's."""
    bias = layer.section("bias")
    enabled = bias.take_optional("enabled", bool)
    bias.inert("initialization", "lr_scale", "weight_decay")
    bias.finish()
    layer.inert("weight", "lr_scale", "apply_peft")
    layer.finish()
    return default if enabled is None else enabled


def _no_optional(section: Section, key: str) -> None:
    """An optional parameter of Fast-LLM that must be off."""
    parameter = section.section(key)
    parameter.allow("enabled", None, False)
    parameter.inert("initialization", "lr_scale", "weight_decay")
    parameter.finish()
