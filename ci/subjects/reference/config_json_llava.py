"""Reads and writes config.json of llava with a Pixtral tower and a Mistral decoder.

Keys and defaults are those of transformers, configuration_llava.py and configuration_pixtral.py. Another tower, another
layer of features than the last one, and features without their first token are refused by name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ci.errors import UnsupportedError
from ci.subjects.reference.config import Architecture, Attention, AxialRope, Block, Mlp, VisionTower
from ci.subjects.reference.config_json import ACTIVATIONS, DTYPE_KEYS, IGNORED_KEYS, NEUTRAL_VALUES, read_config
from ci.subjects.reference.config_json_write import write_config
from ci.subjects.reference.config_section import ConfigSection

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME: Final = "llava"
ARCHITECTURE, TEXT = "LlavaForConditionalGeneration", "mistral"
VISION_EPSILON: Final = 1e-5
"""Of every norm of the tower: the modelling code has no key for it."""
PROJECTOR_ACTIVATIONS: Final = {**ACTIVATIONS, "gelu": "gelu_exact"}
VISION_IGNORED: Final = ("image_size", "initializer_range", "attention_dropout", "projection_dim", "vocab_size")


def read_llava(config: Mapping[str, Any], *, where: str) -> Architecture:
    """Read a config.json. Raises SubjectError for a malformed file, UnsupportedError for an unknown feature."""
    section = ConfigSection(where, config)
    section.allow("model_type", NAME)
    section.allow("architectures", [ARCHITECTURE], None)
    text = read_config(section.take("text_config", dict), TEXT, where=f"{where}: text_config")
    projector = section.take("projector_hidden_act", str, "gelu")
    if projector not in PROJECTOR_ACTIVATIONS:
        raise section.refusal("projector_hidden_act", projector)
    bias = section.take("multimodal_projector_bias", bool, True)
    for key, only, default in (("vision_feature_layer", -1, -2), ("vision_feature_select_strategy", "full", "default")):
        if (found := config.get(key, default)) != only:
            raise section.refusal(key, found)
    section.ignore("vision_feature_layer", "vision_feature_select_strategy", "image_seq_length")
    tower = _read_tower(section.take_section("vision_config"))
    tied = section.take("tie_word_embeddings", bool, False)
    architecture = replace(
        text,
        tied=tied or text.tied,
        vision=replace(tower, projector=PROJECTOR_ACTIVATIONS[projector], projector_bias=bias),
        image_token=section.take("image_token_index", int, 32000),
    )
    section.finish_known(NEUTRAL_VALUES, IGNORED_KEYS)
    return architecture


def _read_tower(section: ConfigSection) -> VisionTower:
    """Read the tower; the projector's two fields are the caller's to set."""
    if (kind := section.take("model_type", str)) != "pixtral":
        raise section.refusal("model_type", kind)
    hidden, heads = section.take_positive("hidden_size", 1024), section.take_positive("num_attention_heads", 16)
    head_dim = section.take_optional_positive("head_dim") or hidden // heads
    if head_dim * heads != hidden or head_dim % 4:
        raise section.refusal("head_dim", f"{head_dim} of {heads} heads")
    activation = section.take("hidden_act", str, "gelu")
    if activation not in ACTIVATIONS:
        raise section.refusal("hidden_act", activation)
    attention = Attention(heads, heads, head_dim, None, False, False, AxialRope(_read_theta(section)), causal=False)
    mlp = Mlp(section.take_positive("intermediate_size", 4096), False, ACTIVATIONS[activation])
    block, layers = Block(attention, mlp, VISION_EPSILON), section.take_positive("num_hidden_layers", 24)
    section.allow("num_channels", 3)
    patch = section.take_positive("patch_size", 16)
    section.finish_known(NEUTRAL_VALUES, (*VISION_IGNORED, *IGNORED_KEYS))
    return VisionTower(hidden, patch, (block,) * layers, VISION_EPSILON, "gelu", projector_bias=True)


def _read_theta(section: ConfigSection) -> float:
    """Read the base of the rotations, in the style of transformers 4 or 5."""
    theta = section.take("rope_theta", float, 10_000.0)
    parameters = section.take_section("rope_parameters")
    parameters.allow("rope_type", "default", "axial")
    theta = parameters.take("rope_theta", float, theta)
    parameters.finish()
    return theta


def write_llava(architecture: Architecture, original: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of config.json that say `architecture`, without those that have no effect.

    Raises UnsupportedError for a model without a tower.
    """
    vision = architecture.vision
    if vision is None:
        raise UnsupportedError(f"a config.json of format {NAME!r} needs a vision tower")
    text = replace(architecture, vision=None, image_token=0, tied=False)
    kept = original.get("text_config") or {}
    written = write_config(text, TEXT, "float32", kept)
    own = {key for key in ("architectures", *DTYPE_KEYS) if key not in kept}
    return {
        "architectures": [ARCHITECTURE],
        "model_type": NAME,
        "image_token_index": architecture.image_token,
        "projector_hidden_act": next(k for k, known in PROJECTOR_ACTIVATIONS.items() if known == vision.projector),
        "multimodal_projector_bias": vision.projector_bias,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": architecture.tied,
        "image_seq_length": original.get("image_seq_length", 576),
        "text_config": {key: value for key, value in written.items() if key not in own},
        "vision_config": _write_tower(vision, original.get("vision_config") or {}),
    }


def _write_tower(vision: VisionTower, original: Mapping[str, Any]) -> dict[str, Any]:
    block = vision.blocks[0]
    attention, rope = block.attention, block.attention.rope
    if not isinstance(rope, AxialRope) or any(other != block for other in vision.blocks):
        raise UnsupportedError(f"a config.json of format {NAME!r} cannot express this vision tower")
    theta = {"rope_theta": rope.theta}
    if "rope_parameters" in original:
        theta = {"rope_parameters": {**original["rope_parameters"], **theta}}  # type: ignore[dict-item]
    return {
        **{key: value for key, value in original.items() if key in (*VISION_IGNORED, *IGNORED_KEYS, *NEUTRAL_VALUES)},
        "model_type": "pixtral",
        "hidden_size": vision.hidden,
        "intermediate_size": block.mlp.intermediate,
        "num_hidden_layers": len(vision.blocks),
        "num_attention_heads": attention.heads,
        "head_dim": attention.head_dim,
        "num_channels": vision.channels,
        "patch_size": vision.patch,
        "hidden_act": next(name for name, known in ACTIVATIONS.items() if known == block.mlp.activation),
        **theta,
    }
