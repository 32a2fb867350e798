"""Models with structures that a config may ask for and no published model is known to have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.format_configs import (
    APRIEL2_MAP,
    APRIEL2_TEXT_MAP,
    ATTENTION,
    LAYERS,
    MIXERS,
    MLP,
    NORM,
    SIZES,
    VISION,
    VISION_BLOCK,
    make_own_config,
)
from benchmarks.format_model import EXTERNAL, FormatModel, make_external, make_mtp_llama
from tests.standin.recipes import DENSE, PIXTRAL, Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping


def make_apriel2_text(name: str, mixer: Mapping[str, Any], **keys: Any) -> FormatModel:
    """Return a model of apriel2_text with one kind of mixer in each block."""
    decoder = {"type": "fixed", "num_blocks": LAYERS, "block": {"mixer": mixer, "mlp": MLP, **NORM}}
    sizes = {**SIZES, "decoder": decoder, "head": NORM, "tie_word_embeddings": False, **keys}
    config = make_own_config("apriel2_text", "Apriel2ForCausalLM", APRIEL2_TEXT_MAP, **sizes)
    path = f"{EXTERNAL}/apriel2"
    return FormatModel(name, "apriel2_text", config=config, code_environment="hf-5-14", code_path=path)


def make_apriel2(name: str, vision: Mapping[str, Any], **keys: Any) -> FormatModel:
    """Return a model of apriel2 with attention in each block, and this vision encoder."""
    block = {"mixer": MIXERS["attention"], "mlp": MLP, **NORM}
    sizes = {**SIZES, "decoder": {"type": "fixed", "num_blocks": LAYERS, "block": block}, "head": NORM, **keys}
    sizes |= {"vision_encoder": dict(vision), "image_token_index": 10, "tie_word_embeddings": False}
    config = make_own_config("apriel2", "Apriel2ForConditionalGeneration", APRIEL2_MAP, **sizes)
    return make_external("apriel2", "apriel2", "hf-5-14", config, model_config="multimodal", name=name)


def change_convolution(mixer: str, activation: str) -> dict[str, Any]:
    """Return a recurrent mixer whose convolution has another activation than silu."""
    return {**MIXERS[mixer], "convolution_layer": {"kernel_size": 4, "activation": activation}}


EVEN = {"vocab_size": 332, "num_key_value_heads": 2}
"""Sizes that two tensor ranks can divide."""
_LLAVA: Mapping[str, Any] = PIXTRAL
EVEN_LLAVA = {
    **_LLAVA,
    "text_config": {**_LLAVA["text_config"], **EVEN},
    "vision_config": {**_LLAVA["vision_config"], "hidden_size": 72, "num_attention_heads": 6},
}
LARGE_EPSILON = {"normalization": {"type": "rms_norm", "epsilon": 0.03}}
LLAMA3_ROTARY = {
    "type": "llama3",
    "theta": 10000.0,
    "scale_factor": 8.0,
    "low_frequency_factor": 1.0,
    "high_frequency_factor": 4.0,
    "original_context_length": 48,
}
PROBES = (
    FormatModel("llama-fp8", "llama", Recipe("stand-in/llama-fp8", "Llama-3.1-8B", DENSE, files=3), fp8_block=(25, 41)),
    FormatModel(
        "llava-tanh",
        "llava",
        Recipe("stand-in/llava-tanh", "pixtral-12b", {**PIXTRAL, "projector_hidden_act": "gelu_pytorch_tanh"}, files=1),
        model_config="multimodal",
    ),
    FormatModel(
        "llava-even",
        "llava",
        Recipe("stand-in/llava-even", "pixtral-12b", {**EVEN_LLAVA, "projector_hidden_act": "gelu_pytorch_tanh"}),
        model_config="multimodal",
    ),
    make_mtp_llama("mtp_llama-one-head", prediction_heads=1),
    make_mtp_llama("mtp_llama-even", **EVEN),
    make_apriel2_text("apriel2-attention", MIXERS["attention"]),
    make_apriel2_text(
        "apriel2-kda-sigmoid", {**MIXERS["kda"], "normalization": {"epsilon": 1e-5, "activation": "sigmoid"}}
    ),
    make_apriel2_text("apriel2-kda-convolution", change_convolution("kda", "identity")),
    make_apriel2_text("apriel2-llama3-rope", {**ATTENTION, "rotary": LLAMA3_ROTARY}),
    make_apriel2("apriel2-images", VISION),
    make_apriel2("apriel2-tower-epsilon", {**VISION, "embeddings": {**VISION["embeddings"], **LARGE_EPSILON}}),
    make_apriel2(
        "apriel2-blocks-epsilon",
        {**VISION, "encoder": {"type": "fixed", "num_blocks": 2, "block": {**VISION_BLOCK, **LARGE_EPSILON}}},
    ),
)
"""Run where they are named only."""
