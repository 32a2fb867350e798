"""Generated models whose modelling code travels with them: the structure of what Fast-LLM's own formats hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.subjects.hugging_face import HuggingFace

if TYPE_CHECKING:
    from collections.abc import Mapping

MODELLING = Path(__file__).parent / "modelling"
"""The modelling code, on transformers' own operations."""
SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 88,
    "max_position_embeddings": 320,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "vocab_size": 331,
    "dtype": "bfloat16",
}
MLP = {"type": "mlp", "intermediate_size": 72, "activation": "silu", "gated": True, "add_linear_biases": False}
NORM = {"normalization": {"type": "rms_norm", "epsilon": 1e-5}}
CONVOLUTION = {"convolution_layer": {"kernel_size": 3}}
ATTENTION: dict[str, Any] = {
    "type": "attention",
    "heads": 6,
    "head_groups": 2,
    "head_size": 10,
    "add_linear_biases": False,
    "rotary": {"type": "mistral_1d", "theta": 10000.0},
}
MIXERS: dict[str, dict[str, Any]] = {
    "attention": ATTENTION,
    "sliding_window": {**ATTENTION, "window_size": 9},
    "gdn": {"type": "gdn", "value_heads": 6, "key_heads": 2, "key_head_dim": 8, "value_head_dim": 12, **CONVOLUTION},
    "kda": {"type": "kda", "heads": 3, "head_dim": 10, "normalization": {"epsilon": 1e-4}, **CONVOLUTION},
}
"""The four mixers of a layer of ServiceNow-AI/SuperApriel-15b-Base, after fast_llm_external_models/apriel2/examples,
stochastic_supernet.yaml; the sizes are ours, so this is not the published config."""


def describe_apriel2(decoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of an apriel2_text model."""
    return {
        "model_type": "apriel2_text",
        "architectures": ["Apriel2ForCausalLM"],
        "embeddings": {"max_position_embeddings": 320},
        "head": NORM,
        "decoder": {"num_blocks": 3, **decoder},
        **{key: SIZES[key] for key in ("hidden_size", "vocab_size", "tie_word_embeddings", "dtype")},
    }


def describe_block(mixer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block with this mixer."""
    return {"mixer": mixer, "mlp": MLP, **NORM}


def describe_stochastic(main: str) -> dict[str, Any]:
    """Return the config of a model whose blocks have four mixers each."""
    mixer = {"type": "stochastic", "main_mixer_name": main, "sampling_strategy": "uniform", "mixers": MIXERS}
    return describe_apriel2({"type": "fixed", "block": describe_block(mixer)})


def describe_pattern(*names: str) -> dict[str, Any]:
    """Return the config of a model whose blocks have one mixer each, in turn."""
    blocks = {name: describe_block(MIXERS[name]) for name in names}
    return describe_apriel2({"type": "pattern", "blocks": blocks, "pattern": list(names)})


MAMBA: dict[str, Any] = {
    "type": "mamba",
    "d_inner": 48,
    "d_xb": 16,
    "state_size": 4,
    "dt_rank": 5,
    "d_conv": 3,
    "conv_bias": True,
    "dt_proj_bias": True,
    "add_linear_biases": False,
}
MTP = {"model_type": "mtp_llama", "architectures": ["MTPLlamaForCausalLM"], "prediction_heads": 3, **SIZES}
DREAM = {"model_type": "dream", "architectures": ["DreamModel"], "mask_token_id": 330, **SIZES}
DIFFUSION = {"model_type": "diffusion_llama", "architectures": ["DiffusionLlamaModel"], "mask_token_id": 330, **SIZES}
HYBRID: dict[str, Any] = {
    "model_type": "apriel_hybrid_ssm",
    "architectures": ["AprielHybridSSMForCausalLM"],
    "hybrid_block_layout": ["t", "m2", "m2"],
    "ssm_cfg": {"d_state": 6, "d_inner": 72, "d_xb": 24, "dt_rank": "auto", "d_conv": 4, "bias": False},
    "head_dim": 10,
    "sliding_window": None,
    **SIZES,
}
"""The structure of ServiceNow-AI/Apriel-H1-15b-Thinker-SFT (arXiv 2511.02651: Mamba blocks in place of attention), in
the keys of fast_llm_external_models/apriel_hybrid_ssm, with sizes of ours: this is not the published config."""
OWN_MODELS: dict[str, dict[str, Any]] = {
    "mtp": MTP,
    "mtp-one-head": {**MTP, "prediction_heads": 1, "head_dim": 10},
    "mtp-tied": {**MTP, "tie_word_embeddings": True},
    "dream": DREAM,
    "diffusion": DIFFUSION,
    "apriel2-stochastic": describe_stochastic("gdn"),
    "apriel2-supernet": describe_stochastic("attention"),
    "apriel2-pattern": describe_pattern("attention", "gdn", "kda"),
    "apriel2-mamba": describe_apriel2({"type": "fixed", "block": describe_block(MAMBA)}),
    "apriel-hybrid": HYBRID,
    "apriel-hybrid-window": {**HYBRID, "sliding_window": 9},
    "apriel2-sigmoid": describe_apriel2(
        {
            "type": "fixed",
            "block": describe_block({**MIXERS["kda"], "normalization": {"epsilon": 1e-4, "activation": "sigmoid"}}),
        }
    ),
}
"""A config.json by the name of the case, in the formats' own keys."""
CLASSES = {
    "mtp_llama": "MTPLlamaForCausalLM",
    "dream": "BidirectionalModel",
    "diffusion_llama": "BidirectionalModel",
    "apriel2_text": "Apriel2ForCausalLM",
    "apriel_hybrid_ssm": "AprielHybridSSMForCausalLM",
}


def write_own_model(config: Mapping[str, Any], directory: Path, *, dtype: Any = "float32", seed: int = 0) -> Path:
    """Write the Hugging Face directory of a config, with drawn weights."""
    kind = config["model_type"]
    auto_map = {
        "AutoConfig": "configuration_standin.StandInConfig",
        "AutoModelForCausalLM": f"modeling_standin.{CLASSES[kind]}",
    }
    source = directory.with_name(f"{directory.name}-config")
    save_config({**config, "dtype": dtype, "auto_map": auto_map}, source)
    open_side().write_model(str(source), str(directory), dtype, seed)
    return directory


def save_config(config: Mapping[str, Any], directory: Path) -> Path:
    """Write a directory with config.json, and the generation config that some modelling code asks for."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory / "generation_config.json").write_text("{}", encoding="utf-8")
    return directory


def open_side() -> HuggingFace:
    """Return Hugging Face's side with the modelling code, in this process: it is the tests' own."""
    return HuggingFace(code=MODELLING)
