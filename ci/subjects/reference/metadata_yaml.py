"""Reads metadata.yaml of Fast-LLM's checkpoint format as an Architecture.

The tree is Fast-LLM's GPTBaseModelConfig (fast_llm/models/gpt/config.py of version 0.4). A missing key has the default
of Fast-LLM's configuration class.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ci.subjects.reference.config import (
    Activation,
    Architecture,
    Attention,
    AxialRope,
    Block,
    DefaultRope,
    Llama3Rope,
    Mlp,
    ProportionalRope,
    Rope,
    StochasticMixer,
    VisionTower,
    YarnRope,
)
from ci.subjects.reference.config_section import ConfigSection, read_blocks
from ci.subjects.reference.metadata_yaml_delta import DELTA_READERS, TRAINING_KEYS

if TYPE_CHECKING:
    from ci.subjects.reference.config import Mixer, SingleMixer

ROPES: Final[dict[str, type[Rope]]] = {
    "default": DefaultRope,
    "llama3": Llama3Rope,
    "yarn": YarnRope,
    "proportional": ProportionalRope,
    "default_2d": AxialRope,
}
ROPE_DEFAULTS: Final[dict[str, Any]] = {
    "theta": 10000.0,
    "partial_rotary_factor": 1.0,
    "scale_factor": 8.0,
    "low_frequency_factor": 1.0,
    "high_frequency_factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_context_length": 8192,
}
"""Defaults of Fast-LLM's RoPE classes: fast_llm/layers/attention/rotary/config.py."""
ACTIVATIONS: Final[tuple[Activation, ...]] = ("silu", "gelu", "relu")
LAYERS: Final = ("query_layer", "key_layer", "value_layer", "dense_layer")


def read_base_model(tree: object, *, where: str = "metadata.yaml") -> Architecture:
    """Read `config.base_model`. Raises SubjectError for a malformed tree, UnsupportedError for an unknown feature."""
    section = ConfigSection(f"{where}: base_model", tree)
    section.ignore("type", "lr_scale", "use_megatron_initialization")
    peft = section.take_section("peft")
    peft.allow("type", "none")
    peft.finish()
    vocabulary, scale = _read_embeddings(section.take_section("embeddings"))
    epsilon, softcap, heads = _read_head(section.take_section("head"))
    hidden = section.take_positive("hidden_size", 1024)
    seeing = section.take_optional("vision_encoder", dict)
    architecture = Architecture(
        vocabulary=vocabulary,
        hidden=hidden,
        blocks=_read_decoder(section.take_section("decoder"), hidden),
        epsilon=epsilon,
        embedding_scale=scale,
        softcap=softcap,
        prediction_heads=heads,
        tied=section.take("tied_embedding_weight", bool, False),
        vision=None if seeing is None else _read_vision(section.name_child("vision_encoder", seeing), hidden),
        image_token=section.take_optional("image_token_index", int) or 0,
    )
    section.finish()
    return architecture


def _read_embeddings(section: ConfigSection) -> tuple[int, float]:
    """Read the vocabulary and the factor of the embeddings."""
    vocabulary = section.take_positive("vocab_size", 49152)
    _refuse_optional(section, "position_embeddings")
    scale = section.take("embedding_scale", float, 1.0)
    section.allow("full_precision_residual", False)
    section.ignore("type", "lr_scale", "word_embeddings", "num_position_embeddings", "dropout", "vocab_parallel")
    section.finish()
    return vocabulary, scale


def _read_head(section: ConfigSection) -> tuple[float, float | None, int]:
    """Read the epsilon of the final norm, the bound of the logits, and the number of prediction heads."""
    epsilon = _read_norm(section.take_section("normalization"))
    heads = section.take_positive("prediction_heads", 1)
    softcap = section.take_optional("final_logit_softcap", float)
    section.allow("logits_scale_factor", 1.0)
    section.ignore("type", "lr_scale", "output_weight", "cross_entropy_splits")
    section.ignore("losses", "loss_implementation", "prediction_loss_coefficient")
    section.finish()
    return epsilon, softcap, heads


def _read_vision(section: ConfigSection, hidden: int) -> VisionTower:
    """Read a vision tower and its projector."""
    section.ignore("type", "lr_scale", "normalization")  # of pixels, before the model
    patches, projector = section.take_section("embeddings"), section.take_section("adapter")
    size, width = section.take_positive("hidden_size", 1024), patches.take_positive("patch_width", 16)
    patch, epsilon = patches.take_positive("patch_height", 16), _read_norm(patches.take_section("normalization"))
    if _read_bias(patches.take_section("patch_embeddings"), False) or patch != width:
        raise patches.refusal("patch_embeddings", f"with a bias, or patches of {patch} x {width}")
    patches.allow("full_precision_residual", False)
    patches.ignore("type", "lr_scale")
    patches.finish()
    activation, bias = _read_projector(projector, hidden)
    blocks = _read_decoder(section.take_section("encoder"), size)
    section.finish()
    return VisionTower(size, patch, blocks, epsilon, activation, bias)  # type: ignore[arg-type]


def _read_projector(section: ConfigSection, hidden: int) -> tuple[str, bool]:
    """Read activation and biases of a projector that is as wide as the decoder."""
    section.allow("type", "mlp")
    section.allow("gated", False)
    section.allow("pre_norm", None)
    section.allow("post_norm", None)
    bias = section.take("add_linear_biases", bool, True)
    if any(_read_bias(section.take_section(layer), bias) != bias for layer in ("layer_1", "layer_2")):
        raise section.refusal("layer_1", f"another bias than {bias}")
    if (width := section.take_positive("intermediate_size", 4096)) != hidden:
        raise section.refusal("intermediate_size", width)
    name = section.take("activation", str, "gelu")
    if name not in (*ACTIVATIONS, "gelu_exact"):
        raise section.refusal("activation", name)
    section.ignore("lr_scale", "recompute_level")
    section.finish()
    return name, bias


def _read_norm(section: ConfigSection, kind: str = "rms_norm") -> float:
    """Read the epsilon of an RMS norm; `fixed_rms_norm` has no weight."""
    if (found := section.take("type", str, "layer_norm")) != kind:
        raise section.refusal("type", found)
    epsilon = section.take("epsilon", float, 1e-5)
    section.allow("zero_centered", False)
    section.ignore("weight", "lr_scale", "implementation")
    section.finish()
    return epsilon


def _read_decoder(section: ConfigSection, hidden: int) -> tuple[Block, ...]:
    section.ignore("lr_scale")
    return read_blocks(section, section.take_positive("num_blocks", 12), partial(_read_block, hidden=hidden))


def _read_block(section: ConfigSection, hidden: int) -> Block:
    section.allow("type", "decoder")
    epsilon = _read_norm(section.take_section("normalization"))
    section.allow("pre_mixer_normalization", None)
    after = [_read_optional_norm(section, f"post_{place}_normalization") for place in ("mixer", "mlp")]
    if after not in ([None, None], [epsilon, epsilon]):
        raise section.refusal("post_mixer_normalization", f"epsilons {after}, normalization has {epsilon}")
    mlp, routed = _read_mlps(section, epsilon, hidden)
    block = Block(
        mixer=_read_mixer(section.take_section("mixer")),
        mlp=mlp,
        epsilon=epsilon,
        post_norms=after[0] is not None,
        routed=routed,
        output_scale=_read_enabled(section.take_section("output_scale")),
    )
    section.ignore("lr_scale", "dropout", "distillation_model", "distillation_loss_weight")
    section.finish()
    return block


def _read_optional_norm(section: ConfigSection, key: str, kind: str = "rms_norm") -> float | None:
    """Return the epsilon of a norm, None where there is no such norm."""
    norm = section.take_section(key)
    return _read_norm(norm, kind) if norm else None


def _read_mlps(section: ConfigSection, epsilon: float, hidden: int) -> tuple[Mlp, Mlp | None]:
    """Read the MLP; a `hybrid_moe` runs experts beside a dense one, each with norms of its own, so has none before."""
    before, mlp = section.take_section("pre_mlp_normalization"), section.take_section("mlp")
    if mlp.peek("type") != "hybrid_moe":
        if before and (found := _read_norm(before)) != epsilon:
            raise section.refusal("pre_mlp_normalization", f"epsilon {found}, normalization has {epsilon}")
        return _read_mlp(mlp), None
    mlp.ignore("type")
    if (kind := before.take("type", str, "rms_norm")) != "none":
        raise section.refusal("pre_mlp_normalization", f"{kind} before an MLP of type hybrid_moe")
    parts = [mlp.take_section(name) for name in ("dense", "routed")]
    mlp.allow("pre_norm", None)
    mlp.allow("post_norm", None)
    mlp.ignore("lr_scale")
    mlp.finish()
    for part in parts:
        if [_read_optional_norm(part, f"{place}_norm") for place in ("pre", "post")] != [epsilon, epsilon]:
            raise part.refusal("pre_norm", f"not an RMS norm of epsilon {epsilon} before and after")
    return _read_mlp(parts[0]), _read_mlp(parts[1], scaled=(epsilon, hidden**-0.5))


def _read_mixer(section: ConfigSection) -> Mixer:
    if section.peek("type") != "stochastic":
        return _read_single_mixer(section)
    section.ignore("type", "lr_scale", "seed_shift", *TRAINING_KEYS)
    mixers = section.take("mixers", dict)
    read = tuple((name, _read_single_mixer(section.name_child(name, each))) for name, each in mixers.items())
    main = section.take_optional("main_mixer_name", str) or next(iter(mixers), "")
    section.finish()
    if main not in mixers:
        raise section.refusal("main_mixer_name", main)
    return StochasticMixer(read, main)


def _read_single_mixer(section: ConfigSection) -> SingleMixer:
    kind = section.take("type", str, "attention")
    if kind == "attention":
        return _read_attention(section)
    if kind not in DELTA_READERS:
        raise section.refusal("type", kind)
    return DELTA_READERS[kind](section)


def _read_attention(section: ConfigSection) -> Attention:
    default = section.take("add_linear_biases", bool, True)
    query, key, value, dense = (_read_bias(section.take_section(layer), default) for layer in LAYERS)
    if not query == key == value:
        raise section.refusal("key_layer", f"bias {key}, query_layer {query}, value_layer {value}")
    causal = section.take("causal", bool, True)
    norms = [_read_optional_norm(section, f"{name}_norm") for name in ("query", "key")]
    norms.append(_read_optional_norm(section, "value_norm", "fixed_rms_norm"))
    if len({*norms}) > 1:
        raise section.refusal("query_norm", f"epsilons of query, key and value are {norms}")
    attention = Attention(
        heads=section.take_positive("heads", 8),
        kv_heads=section.take_positive("head_groups", 1),
        head_dim=section.take_positive("head_size", 128),
        window=section.take_optional_positive("window_size"),
        qkv_bias=query,
        output_bias=dense,
        rope=_read_rope(section.take_section("rotary")),
        scale_power=section.take("softmax_scale_power", float, 0.5),
        norm_epsilon=norms[0],
        shared_key_value=section.take("shared_key_value", bool, False),
        causal=causal,
    )
    if attention.heads % attention.kv_heads or attention.head_dim % 2:
        raise section.refusal("head_groups", f"{attention.kv_heads} of {attention.heads} x {attention.head_dim}")
    section.ignore("lr_scale", "dropout", "use_flash_attention", "implementation")
    section.finish()
    return attention


def _read_rope(section: ConfigSection) -> Rope:
    kind = section.take("type", str, "none")
    if kind not in ROPES:
        raise section.refusal("type", kind)
    defaults = {**ROPE_DEFAULTS, **(_take_yarn_scale(section) if kind == "yarn" else {})}
    values = {
        field.name: section.take(field.name, int if field.type == "int" else float, defaults[field.name])
        for field in dataclasses.fields(ROPES[kind])
    }
    rope = ROPES[kind](**values)
    section.finish()
    return rope


def _take_yarn_scale(section: ConfigSection) -> dict[str, float]:
    """Read the two factors of yarn.

    The attention factor follows from the other one where it is missing or null: section 3.4 of
    https://arxiv.org/abs/2309.00071
    """
    scale = section.take("scale_factor", float, ROPE_DEFAULTS["scale_factor"])
    if scale <= 0:
        raise section.refusal("scale_factor", scale)
    given = section.take_optional("attention_factor", float)
    return {"scale_factor": scale, "attention_factor": 0.1 * math.log(scale) + 1 if given is None else given}


def _read_mlp(section: ConfigSection, *, scaled: tuple[float, float] | None = None) -> Mlp:
    """Read an MLP or a mixture of experts; `scaled` are epsilon and factor of a router that normalizes its input."""
    kind, default = section.take("type", str, "mlp"), section.take("add_linear_biases", bool, True)
    first, second = (_read_bias(section.take_section(layer), default) for layer in ("layer_1", "layer_2"))
    if kind not in ("mlp", "moe") or first != second or (kind == "moe" and first) or (scaled and kind != "moe"):
        raise section.refusal("type", f"{kind} with biases {first}, {second}")
    section.allow("pre_norm", None)
    section.allow("post_norm", None)
    if not section.take("gated", bool, False):
        raise section.refusal("gated", False)
    name = section.take("activation", str, "silu")
    activation = next((known for known in ACTIVATIONS if known == name), None)
    if activation is None:
        raise section.refusal("activation", name)
    intermediate = section.take_positive("intermediate_size", 4096)
    experts, per_token = _read_experts(section, scaled) if kind == "moe" else (None, None)
    section.ignore("lr_scale", "recompute_level")
    section.finish()
    return Mlp(intermediate, first, activation, experts, per_token)


def _read_experts(section: ConfigSection, scaled: tuple[float, float] | None) -> tuple[int, int]:
    router = section.take_section("router")
    router.ignore("weight", "lr_scale", "apply_peft")
    router.finish()
    epsilon, factor = scaled or (None, 1.0)
    if (found := _read_optional_norm(section, "router_normalization", "fixed_rms_norm")) != epsilon:
        raise section.refusal("router_normalization", f"epsilon {found}, expected {epsilon}")
    section.allow("router_input_scale", factor)
    for key in ("router_scale", "router_per_expert_scale"):
        if (enabled := _read_enabled(section.take_section(key))) != (scaled is not None):
            raise section.refusal(key, f"enabled: {enabled}")
    section.allow("shared_experts", 0)
    section.allow("routing", "aux_loss")  # Fast-LLM's name for top-k
    section.ignore("auxiliary_loss_coefficient", "z_loss_coefficient", "jitter_eps")
    section.ignore("implementation", "dropless_dynamic_shape")
    experts, per_token = section.take_positive("experts", 2), section.take_positive("experts_per_token", 1)
    if per_token > experts:
        raise section.refusal("experts_per_token", f"{per_token} of {experts}")
    return experts, per_token


def _read_enabled(parameter: ConfigSection) -> bool:
    """Return whether an optional parameter is there: by default it is not."""
    enabled = parameter.take_optional("enabled", bool)
    parameter.ignore("initialization", "lr_scale", "weight_decay")
    parameter.finish()
    return bool(enabled)


def _read_bias(layer: ConfigSection, default: bool) -> bool:
    """Return whether a linear layer has a bias: its own setting, else its parent's."""
    bias = layer.take_section("bias")
    enabled = bias.take_optional("enabled", bool)
    bias.ignore("initialization", "lr_scale", "weight_decay")
    bias.finish()
    layer.ignore("weight", "lr_scale", "apply_peft")
    layer.finish()
    return default if enabled is None else enabled


def _refuse_optional(section: ConfigSection, key: str) -> None:
    """Refuse an optional parameter of Fast-LLM that is enabled."""
    if _read_enabled(section.take_section(key)):
        raise section.refusal(key, "enabled")
