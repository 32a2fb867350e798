"""Reads and writes gated delta net, Kimi delta attention and Mamba in Fast-LLM's metadata.yaml.

Keys and defaults are those of fast_llm/layers/ssm/config.py of version 0.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ci.subjects.reference.config import GatedDeltaNet, KimiDeltaAttention, Mamba

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ci.subjects.reference.config_section import ConfigSection

TRAINING_KEYS: Final = (
    *("sampling_strategy", "sampling_weights"),
    *("predefined_layouts", "predefined_layout_probabilities"),
)
"""How training draws one of several mixers: outside of it the main one runs."""
PARAMETERS: Final = ("dt_bias_weight", "a_log_weight")
MAMBA_LAYERS: Final = ("z_layer", "x_layer", "b_layer", "c_layer", "output_layer", "dt_input_layer")
NET_LAYERS: Final = ("qkv_projection_layer", "ba_projection_layer", "output_layer")
KIMI_LAYERS: Final = (
    *(f"{name}_projection_layer" for name in ("q", "k", "v", "f_a", "f_b", "g_a", "g_b")),
    *("beta_projection_layer", "output_projection_layer"),
)


def _read_gated_delta_net(section: ConfigSection) -> GatedDeltaNet:
    _check_layers(section, NET_LAYERS)
    epsilon, gate = _read_gated_norm(section.take_section("normalization"))
    if gate != "silu":
        raise section.refusal("normalization", f"activation {gate}")
    mixer = GatedDeltaNet(
        value_heads=section.take_positive("value_heads", 16),
        key_heads=section.take_positive("key_heads", 8),
        key_head_dim=section.take_positive("key_head_dim", 64),
        value_head_dim=section.take_positive("value_head_dim", 64),
        kernel=_read_kernel(section.take_section("convolution_layer")),
        epsilon=epsilon,
    )
    section.finish()
    return mixer


def _read_kimi_delta_attention(section: ConfigSection) -> KimiDeltaAttention:
    _check_layers(section, KIMI_LAYERS)
    epsilon, gate = _read_gated_norm(section.take_section("normalization"))
    mixer = KimiDeltaAttention(
        heads=section.take_positive("heads", 16),
        head_dim=section.take_positive("head_dim", 64),
        kernel=_read_kernel(section.take_section("convolution_layer")),
        epsilon=epsilon,
        gate=gate,  # type: ignore[arg-type]
    )
    section.finish()
    return mixer


def _read_mamba(section: ConfigSection) -> Mamba:
    """Read a Mamba block, whose layers share one setting of biases but for the convolution and the steps."""
    default = section.take("add_linear_biases", bool, True)
    for name in MAMBA_LAYERS:
        layer = section.take_section(name)
        if (found := _read_bias(layer, default)) != default:
            raise section.refusal(name, f"bias {found}, add_linear_biases is {default}")
        layer.ignore("weight", "lr_scale", "apply_peft")
        layer.finish()
    convolution, steps = section.take_section("convolution_layer"), section.take_section("dt_layer")
    biases = [_read_bias(layer, default) for layer in (convolution, steps)]
    steps.ignore("weight", "lr_scale", "apply_peft")
    steps.finish()
    section.allow("repeat_kv_before_conv", True)
    section.allow("cross_document_attention", True)
    section.ignore("lr_scale", "d_weight", "a_log_weight")
    mixer = Mamba(
        inner=section.take_positive("d_inner", 2048),
        grouped=section.take_positive("d_xb", 1024),
        state=section.take_positive("state_size", 16),
        rank=section.take_positive("dt_rank", 64),
        kernel=_read_kernel(convolution),
        bias=default,
        convolution_bias=biases[0],
        step_bias=biases[1],
    )
    section.finish()
    return mixer


DELTA_READERS: Final[Mapping[str, Callable[[ConfigSection], GatedDeltaNet | KimiDeltaAttention | Mamba]]] = {
    "gdn": _read_gated_delta_net,
    "kda": _read_kimi_delta_attention,
    "mamba": _read_mamba,
}
"""Fast-LLM's name of a mixer → what reads it."""


def _check_layers(section: ConfigSection, layers: tuple[str, ...]) -> None:
    """Refuse a projection with a bias: by default none has one."""
    for name in layers:
        layer = section.take_section(name)
        _check_bias(layer)
        layer.ignore("weight", "lr_scale", "apply_peft")
        layer.finish()
    section.ignore("lr_scale", *PARAMETERS)


def _check_bias(layer: ConfigSection) -> None:
    bias = layer.take_section("bias")
    bias.allow("enabled", False, None)
    bias.ignore("initialization", "lr_scale", "weight_decay")
    bias.finish()


def _read_bias(layer: ConfigSection, default: bool) -> bool:
    bias = layer.take_section("bias")
    enabled = bias.take_optional("enabled", bool)
    bias.ignore("initialization", "lr_scale", "weight_decay")
    bias.finish()
    return default if enabled is None else enabled


def _read_kernel(convolution: ConfigSection) -> int:
    _check_bias(convolution)
    convolution.allow("activation", "silu", None)
    convolution.ignore("weight", "lr_scale")
    kernel = convolution.take_positive("kernel_size", 4)
    convolution.finish()
    return kernel


def _read_gated_norm(norm: ConfigSection) -> tuple[float, str]:
    """Read epsilon and activation of a gated norm."""
    norm.ignore("type", "weight", "lr_scale", "implementation")
    norm.allow("zero_centered", False)
    epsilon, gate = norm.take("epsilon", float, 1e-5), norm.take("activation", str, "silu")
    norm.finish()
    if gate not in ("silu", "sigmoid"):
        raise norm.refusal("activation", gate)
    return epsilon, gate


def write_delta_mixer(mixer: GatedDeltaNet | KimiDeltaAttention | Mamba) -> dict[str, Any]:
    """Return a mixer's part of the tree."""
    if isinstance(mixer, Mamba):
        return _write_mamba(mixer)
    convolution = {"convolution_layer": {"kernel_size": mixer.kernel}}
    if isinstance(mixer, GatedDeltaNet):
        sizes = {"value_heads": mixer.value_heads, "key_heads": mixer.key_heads}
        dims = {"key_head_dim": mixer.key_head_dim, "value_head_dim": mixer.value_head_dim}
        return {"type": "gdn", **sizes, **dims, **convolution, "normalization": {"epsilon": mixer.epsilon}}
    norm = {"epsilon": mixer.epsilon, "activation": mixer.gate}
    return {"type": "kda", "heads": mixer.heads, "head_dim": mixer.head_dim, **convolution, "normalization": norm}


def _write_mamba(mixer: Mamba) -> dict[str, Any]:
    return {
        "type": "mamba",
        "d_inner": mixer.inner,
        "d_xb": mixer.grouped,
        "state_size": mixer.state,
        "dt_rank": mixer.rank,
        "add_linear_biases": mixer.bias,
        "convolution_layer": {"kernel_size": mixer.kernel, "bias": {"enabled": mixer.convolution_bias}},
        "dt_layer": {"bias": {"enabled": mixer.step_bias}},
    }
