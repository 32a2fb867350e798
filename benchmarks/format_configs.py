"""The contents of config.json in Fast-LLM's own formats, whose modelling code lies in Fast-LLM's checkout.

Recipes of our own in that code's keys, no published files: structure as in production models, sizes odd and small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.standin.recipes import DENSE

if TYPE_CHECKING:
    from collections.abc import Mapping

LAYERS = 4
MLP = {"type": "mlp", "intermediate_size": 152, "activation": "silu", "gated": True, "add_linear_biases": False}
NORM = {"normalization": {"type": "rms_norm", "epsilon": 1e-5}}
ROTARY = {"type": "mistral_1d", "theta": 10000.0}
ATTENTION = {"type": "attention", "heads": 6, "head_groups": 3, "head_size": 16, "add_linear_biases": False}
CONVOLUTION = {"convolution_layer": {"kernel_size": 4}}
MIXERS = {
    "attention": {**ATTENTION, "rotary": ROTARY},
    "sliding_window": {**ATTENTION, "rotary": ROTARY, "window_size": 20},
    "gdn": {"type": "gdn", "value_heads": 6, "key_heads": 2, "key_head_dim": 8, "value_head_dim": 12, **CONVOLUTION},
    "kda": {"type": "kda", "heads": 3, "head_dim": 10, "normalization": {"epsilon": 1e-5}, **CONVOLUTION},
}
"""The four mixers of SuperApriel (arXiv 2604.19877)."""


def make_own_config(kind: str, architecture: str, auto_map: Mapping[str, str], **keys: Any) -> dict[str, Any]:
    """Return the keys that every config.json with code of its own has."""
    named = {"model_type": kind, "architectures": [architecture], "auto_map": dict(auto_map)}
    common = {"bos_token_id": 256, "eos_token_id": 257, "torch_dtype": "bfloat16", "transformers_version": "4.57.6"}
    return {**named, **common, **keys}


def make_auto_map(module: str, config: str, model: str, key: str = "AutoModelForCausalLM") -> dict[str, str]:
    """Return the `auto_map` of a config.json: the class of the config and that of the model."""
    return {"AutoConfig": f"configuration_{module}.{config}", key: f"modeling_{module}.{model}"}


LLAMA = {**DENSE, "num_hidden_layers": LAYERS, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0}
UNTIED = {"tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}
BLOCK = {"mixer": {"type": "stochastic", "main_mixer_name": "attention", "mixers": MIXERS}, "mlp": MLP, **NORM}
DECODER = {"decoder": {"type": "fixed", "num_blocks": LAYERS, "block": BLOCK}, "head": NORM}
SIZES = {"hidden_size": 96, "vocab_size": 331, "embeddings": {"max_position_embeddings": 512}}
VISION_ROTARY = {"type": "pixtral_2d", "theta": 10000.0, "patch_size": 4, "max_image_size": 64}
VISION_ATTENTION = {**ATTENTION, "heads": 5, "head_groups": 5, "head_size": 12, "causal": False}
VISION_BLOCK = {
    "mixer": {**VISION_ATTENTION, "cross_document_attention": False, "rotary": VISION_ROTARY},
    "mlp": {**MLP, "intermediate_size": 88},
    **NORM,
}
VISION: dict[str, Any] = {
    "hidden_size": 60,
    "embeddings": {"patch_height": 4, "patch_width": 4, "input_channels": 3, **NORM},
    "encoder": {"type": "fixed", "num_blocks": 2, "block": VISION_BLOCK},
    "num_hidden_layers": 2,
    "patch_size": 4,
    "num_channels": 3,
    "adapter": {
        "type": "mlp",
        "intermediate_size": 96,
        "activation": "gelu_pytorch_tanh",
        "gated": False,
        "add_linear_biases": True,
    },
}
"""What Fast-LLM writes for the tower of a llava model when it exports that as apriel2."""
GEMMA4_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 60,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "head_dim": 12,
    "patch_size": 4,
    "pooling_kernel_size": 2,
    "position_embedding_size": 64,
}
LAYOUT = ["t", "m2", "t", "m2"]
"""The blocks of Apriel-H1: attention, and Mamba-2 between."""
SSM: dict[str, Any] = {"d_state": 8, "d_inner": 144, "d_xb": 48, "dt_rank": 7, "d_conv": 4, "expand": 1, "bias": False}
SSM |= {"conv_bias": True, "dt_proj_bias": True, "repeat_kv_before_conv": True}
SSM |= {"dt_min": 0.001, "dt_max": 0.1, "dt_init": "random", "dt_scale": 1.0, "dt_init_floor": 0.0001}
SSM |= {"n_v_heads": 32, "n_qk_heads": 32, "chunk_size": 128, "activation": "identity"}
"""Every key that the config's class writes; those of the last line are of another kind of block."""
APRIEL = {**LLAMA, "hybrid_block_layout": LAYOUT, "ssm_cfg": SSM, "sliding_window": None, "tie_word_embeddings": False}

APRIEL2_TEXT_MAP = make_auto_map("apriel2", "Apriel2TextConfig", "Apriel2ForCausalLM")
APRIEL2_MAP = {
    **make_auto_map("apriel2", "Apriel2Config", "Apriel2ForConditionalGeneration"),
    "AutoModelForImageTextToText": "modeling_apriel2.Apriel2ForConditionalGeneration",
}
DREAM = make_own_config(
    "Dream",
    "DreamModel",
    make_auto_map("dream", "DreamConfig", "DreamModel", "AutoModel"),
    **{**LLAMA, "tie_word_embeddings": False, "mask_token_id": 300, "pad_token_id": 258},
    use_sliding_window=False,
    sliding_window=None,
    max_window_layers=4,
    rope_scaling=None,
)
