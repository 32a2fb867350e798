"""Reads and writes config.json of Fast-LLM's apriel2_text: nested blocks, of which each may have several mixers.

https://github.com/ServiceNow/Fast-LLM/blob/main/fast_llm_external_models/apriel2/modeling_apriel2.py. That code gives
every norm the head's epsilon, and a gated MLP no biases: another epsilon of a block, or biases, are refused by name.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ci.errors import UnsupportedError
from ci.subjects.reference.config import (
    Architecture,
    Attention,
    Block,
    DefaultRope,
    GatedDeltaNet,
    KimiDeltaAttention,
    Mamba,
    Mlp,
    StochasticMixer,
)
from ci.subjects.reference.config_json import ACTIVATIONS, IGNORED_KEYS, NEUTRAL_VALUES
from ci.subjects.reference.config_section import ConfigSection, read_blocks
from ci.subjects.reference.metadata_yaml_delta import TRAINING_KEYS, write_delta_mixer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ci.subjects.reference.config import Mixer, SingleMixer

NAME: Final = "apriel2_text"
ARCHITECTURE: Final = "Apriel2ForCausalLM"
LAYERS: Final = ("query_layer", "key_layer", "value_layer", "dense_layer")


def read_apriel2(config: Mapping[str, Any], *, where: str) -> Architecture:
    """Read a config.json. Raises SubjectError for a malformed file, UnsupportedError for an unknown feature."""
    section = ConfigSection(where, config)
    if (model_type := section.take("model_type", str)) != NAME:
        raise UnsupportedError(f"{where}: model_type {model_type!r} is not of the format {NAME!r}")
    section.allow("architectures", [ARCHITECTURE], None)
    head = section.take_section("head")
    epsilon = _read_norm(head.take_section("normalization"))
    head.finish()
    architecture = Architecture(
        vocabulary=section.take_positive("vocab_size"),
        hidden=section.take_positive("hidden_size"),
        blocks=_read_decoder(section.take_section("decoder"), epsilon),
        epsilon=epsilon,
        tied=section.take("tie_word_embeddings", bool, False),
    )
    embeddings = section.take_section("embeddings")
    embeddings.ignore("max_position_embeddings")
    embeddings.finish()
    section.finish_known(NEUTRAL_VALUES, IGNORED_KEYS)
    return architecture


def _read_norm(section: ConfigSection) -> float:
    section.allow("type", "rms_norm")
    epsilon = section.take("epsilon", float, 1e-5)
    section.finish()
    return epsilon


def _read_decoder(section: ConfigSection, epsilon: float) -> tuple[Block, ...]:
    return read_blocks(section, section.take_positive("num_blocks"), partial(_read_block, epsilon=epsilon))


def _read_block(section: ConfigSection, epsilon: float) -> Block:
    norm = section.take_section("normalization")
    if (found := _read_norm(norm)) != epsilon:
        raise section.refusal("normalization", f"epsilon {found}, the head has {epsilon}, which the model's code takes")
    block = Block(_read_mixer(section.take_section("mixer")), _read_mlp(section.take_section("mlp")), epsilon)
    section.finish()
    return block


def _read_mlp(section: ConfigSection) -> Mlp:
    section.allow("type", "mlp")
    if not section.take("gated", bool, False):
        raise section.refusal("gated", False)
    section.allow("add_linear_biases", False)
    for layer in ("layer_1", "layer_2"):
        section.allow(layer, {}, {"bias": {}}, {"bias": {"enabled": False}})
    name = section.take("activation", str, "silu")
    if name not in ACTIVATIONS:
        raise section.refusal("activation", name)
    mlp = Mlp(section.take_positive("intermediate_size"), False, ACTIVATIONS[name])
    section.finish()
    return mlp


def _read_mixer(section: ConfigSection) -> Mixer:
    if section.peek("type") != "stochastic":
        return _read_single(section)
    section.ignore("type", *TRAINING_KEYS)
    mixers = section.take("mixers", dict)
    read = tuple((name, _read_single(section.name_child(name, each))) for name, each in mixers.items())
    main = section.take("main_mixer_name", str, next(iter(mixers), ""))
    section.finish()
    if main not in mixers:
        raise section.refusal("main_mixer_name", main)
    return StochasticMixer(read, main)


def _read_single(section: ConfigSection) -> SingleMixer:
    kind = section.take("type", str, "attention")
    if kind not in READERS:
        raise section.refusal("type", kind)
    mixer = READERS[kind](section)
    section.finish()
    return mixer


def _read_attention(section: ConfigSection) -> Attention:
    default = section.take("add_linear_biases", bool, False)
    biases = [_read_bias(section.take_section(layer), default) for layer in LAYERS]
    if not biases[0] == biases[1] == biases[2]:
        raise section.refusal("key_layer", f"biases of query, key and value are {biases[:3]}")
    rotary = section.take_section("rotary")
    if (kind := rotary.take("type", str)) != "mistral_1d":
        raise rotary.refusal("type", kind)
    rope = DefaultRope(rotary.take("theta", float))
    rotary.finish()
    section.allow("cross_document_attention", True)
    heads = section.take_positive("heads")
    return Attention(
        heads=heads,
        kv_heads=section.take_positive("head_groups", heads),
        head_dim=section.take_positive("head_size"),
        window=section.take_optional_positive("window_size"),
        qkv_bias=biases[0],
        output_bias=biases[3],
        rope=rope,
        causal=section.take("causal", bool, True),
    )


def _read_bias(layer: ConfigSection, default: bool) -> bool:
    bias = layer.take_section("bias")
    enabled = bias.take_optional("enabled", bool)
    for part in (bias, layer):
        part.finish()
    return default if enabled is None else enabled


def _read_gated_delta_net(section: ConfigSection) -> GatedDeltaNet:
    mixer = GatedDeltaNet(
        value_heads=section.take_positive("value_heads"),
        key_heads=section.take_positive("key_heads"),
        key_head_dim=section.take_positive("key_head_dim"),
        value_head_dim=section.take_positive("value_head_dim"),
        kernel=_read_kernel(section),
        epsilon=section.take("norm_eps", float, 1e-5),
    )
    if mixer.value_heads % mixer.key_heads:
        raise section.refusal("key_heads", f"{mixer.key_heads} of {mixer.value_heads} value heads")
    return mixer


def _read_kimi_delta_attention(section: ConfigSection) -> KimiDeltaAttention:
    norm = section.take_section("normalization")
    norm.allow("type", "gated_rms_norm", "rms_norm")
    epsilon, gate = norm.take("epsilon", float, 1e-5), norm.take("activation", str, "silu")
    norm.finish()
    if gate not in ("silu", "sigmoid"):
        raise norm.refusal("activation", gate)
    heads, head_dim = section.take_positive("heads"), section.take_positive("head_dim")
    return KimiDeltaAttention(heads, head_dim, _read_kernel(section), epsilon, gate)  # type: ignore[arg-type]


def _read_mamba(section: ConfigSection) -> Mamba:
    section.allow("repeat_kv_before_conv", True)
    section.ignore("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor")  # how steps begin
    mixer = Mamba(
        inner=section.take_positive("d_inner"),
        grouped=section.take_positive("d_xb"),
        state=section.take_positive("state_size"),
        rank=section.take_positive("dt_rank"),
        kernel=section.take_positive("d_conv", 4),
        bias=section.take("add_linear_biases", bool, False),
        convolution_bias=section.take("conv_bias", bool),
        step_bias=section.take("dt_proj_bias", bool),
    )
    if mixer.inner % mixer.grouped or mixer.grouped % mixer.state:
        raise section.refusal("d_xb", f"{mixer.grouped} of {mixer.inner} in heads of {mixer.state}")
    return mixer


def _read_kernel(section: ConfigSection) -> int:
    convolution = section.take_section("convolution_layer")
    kernel = convolution.take_positive("kernel_size")
    convolution.allow("activation", "silu", None)
    convolution.finish()
    return kernel


READERS: Final[Mapping[str, Callable[[ConfigSection], SingleMixer]]] = {
    "attention": _read_attention,
    "gdn": _read_gated_delta_net,
    "kda": _read_kimi_delta_attention,
    "mamba": _read_mamba,
}


def write_apriel2(architecture: Architecture, original: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of config.json that say `architecture`, without those that have no effect."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": NAME,
        "vocab_size": architecture.vocabulary,
        "hidden_size": architecture.hidden,
        "tie_word_embeddings": architecture.tied,
        "head": {"normalization": {"type": "rms_norm", "epsilon": architecture.epsilon}},
        "embeddings": dict(original.get("embeddings", {"max_position_embeddings": 2048})),
        "decoder": _write_decoder(architecture, original),
    }


def _write_decoder(architecture: Architecture, original: Mapping[str, Any]) -> dict[str, Any]:
    """Return the original's decoder where it says the same; else each different block gets a name."""
    blocks = architecture.blocks
    if kept := original.get("decoder"):
        kept = {**kept, "num_blocks": len(blocks)}
        if _read_decoder(ConfigSection("decoder", kept), architecture.epsilon) == blocks:
            return kept
    names = {block: f"block_{number}" for number, block in enumerate(dict.fromkeys(blocks))}
    if len(names) == 1:
        return {"type": "fixed", "num_blocks": len(blocks), "block": _write_block(blocks[0])}
    return {
        "type": "pattern",
        "num_blocks": len(blocks),
        "blocks": {name: _write_block(block) for block, name in names.items()},
        "pattern": [names[block] for block in blocks],
    }


def _write_block(block: Block) -> dict[str, Any]:
    activation = next(name for name, known in ACTIVATIONS.items() if known == block.mlp.activation)
    mlp = {"type": "mlp", "intermediate_size": block.mlp.intermediate, "activation": activation, "gated": True}
    return {
        "mixer": _write_mixer(block.mixer),
        "mlp": {**mlp, "add_linear_biases": False},
        "normalization": {"type": "rms_norm", "epsilon": block.epsilon},
    }


def _write_mixer(mixer: Mixer) -> dict[str, Any]:
    if isinstance(mixer, StochasticMixer):
        mixers = {name: _write_mixer(each) for name, each in mixer.mixers}
        return {"type": "stochastic", "main_mixer_name": mixer.main, "mixers": mixers}
    if isinstance(mixer, Attention):
        return _write_attention(mixer)
    if isinstance(mixer, Mamba):
        return _write_mamba(mixer)
    written = write_delta_mixer(mixer)
    if isinstance(mixer, GatedDeltaNet):
        written["norm_eps"] = written.pop("normalization")["epsilon"]
    return written


def _write_mamba(mixer: Mamba) -> dict[str, Any]:
    sizes = {"d_inner": mixer.inner, "d_xb": mixer.grouped, "state_size": mixer.state, "dt_rank": mixer.rank}
    biases = {"conv_bias": mixer.convolution_bias, "dt_proj_bias": mixer.step_bias}
    return {"type": "mamba", **sizes, "d_conv": mixer.kernel, "add_linear_biases": mixer.bias, **biases}


def _write_attention(attention: Attention) -> dict[str, Any]:
    if not isinstance(attention.rope, DefaultRope) or attention.norm_epsilon is not None:
        raise UnsupportedError(f"a config.json of format {NAME!r} cannot express {attention}")
    written: dict[str, Any] = {
        "type": "attention",
        "heads": attention.heads,
        "head_groups": attention.kv_heads,
        "head_size": attention.head_dim,
        "add_linear_biases": attention.output_bias,
        "rotary": {"type": "mistral_1d", "theta": attention.rope.theta},
    }
    if attention.qkv_bias != attention.output_bias:
        written |= {layer: {"bias": {"enabled": attention.qkv_bias}} for layer in LAYERS[:3]}
    window = {} if attention.window is None else {"window_size": attention.window}
    return {**written, **window, **({} if attention.causal else {"causal": False})}
