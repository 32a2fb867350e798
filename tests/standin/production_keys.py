"""The keys of each production model's config.json, and which of them its generated model leaves out, and why.

`published`: the keys are those of the published file, or quoted from it; else they are those that the configuration
class takes, and the config is our own recipe. Keys of nested sections are joined by dots; below `LISTS` nothing is
compared, since their keys are names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.standin.recipes import CONFIGS

LISTS = ("decoder.block.mixer.mixers", "auto_map", "transformers.js_config")


@dataclass(frozen=True)
class ProductionKeys:
    """The keys of one config.json: where they are known from, and which are left out, each with its reason."""

    source: str
    published: bool
    keys: frozenset[str]
    left_out: Mapping[str, str] = field(default_factory=dict)


def flatten(config: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Every key of a config that holds no section, with the sections before it."""
    names: set[str] = set()
    for key, value in config.items():
        name = f"{prefix}{key}"
        names |= flatten(value, f"{name}.") if isinstance(value, dict) and name not in LISTS and value else {name}
    return names


def split(words: str, prefix: str = "") -> frozenset[str]:
    """The words as keys of one section."""
    return frozenset(f"{prefix}{word}" for word in words.split())


def read_file(name: str) -> frozenset[str]:
    """The keys of a published file in configs/."""
    return frozenset(flatten(json.loads((CONFIGS / f"{name}.json").read_text())))


def of_file(name: str, *, beside: str = "", source: str = "") -> ProductionKeys:
    """The keys of a published file that the generated model begins from, and those that another one has `beside`."""
    return ProductionKeys(source or f"configs/{name}.json", True, read_file(name) | split(beside))


COMMON = split("architectures auto_map model_type torch_dtype transformers_version bos_token_id eos_token_id")
"""What each file with code of its own has."""
LLAMA = split(
    "attention_bias attention_dropout head_dim hidden_act hidden_size initializer_range intermediate_size "
    "max_position_embeddings mlp_bias num_attention_heads num_hidden_layers num_key_value_heads pad_token_id "
    "pretraining_tp rms_norm_eps rope_scaling rope_theta tie_word_embeddings use_cache vocab_size"
)
MISTRAL = split(
    "attention_dropout head_dim hidden_act hidden_size initializer_range intermediate_size max_position_embeddings "
    "num_attention_heads num_hidden_layers num_key_value_heads pad_token_id rms_norm_eps rope_theta sliding_window "
    "tie_word_embeddings use_cache vocab_size"
)
GEMMA4 = split(
    "attention_bias attention_dropout attention_k_eq_v bos_token_id dtype enable_moe_block eos_token_id "
    "expert_intermediate_size final_logit_softcapping global_head_dim head_dim hidden_activation hidden_size "
    "hidden_size_per_layer_input initializer_range intermediate_size layer_types max_position_embeddings model_type "
    "moe_intermediate_size num_attention_heads num_experts num_global_key_value_heads num_hidden_layers "
    "num_key_value_heads num_kv_shared_layers pad_token_id rms_norm_eps "
    "rope_parameters.full_attention.partial_rotary_factor rope_parameters.full_attention.rope_theta "
    "rope_parameters.full_attention.rope_type rope_parameters.sliding_attention.rope_theta "
    "rope_parameters.sliding_attention.rope_type sliding_window tie_word_embeddings top_k_experts "
    "use_bidirectional_attention use_cache use_double_wide_mlp vocab_size vocab_size_per_layer_input"
)
SSM = split(
    "activation bias chunk_size conv_bias d_conv d_inner d_state d_xb dt_init dt_init_floor dt_max dt_min "
    "dt_proj_bias dt_rank dt_scale expand n_qk_heads n_v_heads repeat_kv_before_conv",
    "ssm_cfg.",
)
HYBRID = MISTRAL | SSM | split("hybrid_block_layout gdn_cfg")
APRIEL2 = split(
    "decoder.num_blocks decoder.type decoder.block.mixer.main_mixer_name decoder.block.mixer.mixers "
    "decoder.block.mixer.type decoder.block.mlp.activation decoder.block.mlp.add_linear_biases "
    "decoder.block.mlp.gated decoder.block.mlp.intermediate_size decoder.block.mlp.type "
    "decoder.block.normalization.epsilon decoder.block.normalization.type embeddings.max_position_embeddings "
    "head.normalization.epsilon head.normalization.type hidden_size pad_token_id tie_word_embeddings use_cache "
    "vocab_size"
)
PIXTRAL_TOWER = split(
    "attention_dropout head_dim hidden_act hidden_size image_size initializer_range intermediate_size model_type "
    "num_attention_heads num_channels num_hidden_layers patch_size rope_theta",
    "vision_config.",
)
LLAVA = split(
    "image_seq_length image_token_index multimodal_projector_bias projector_hidden_act vision_feature_layer "
    "vision_feature_select_strategy tie_word_embeddings"
)

TRAINING = "training alone reads it"
DRAWN = "weights are drawn by the stand-in, not by this"
GENERATION = "generation alone reads it"
DEFAULT = "has the class's default, which the published file has too"
UNUSED = {
    "initializer_range": DRAWN,
    "use_cache": GENERATION,
    "attention_dropout": TRAINING,
    "pad_token_id": "no input has padding of its own id",
    "pretraining_tp": "has no effect but in a sharded linear layer of old transformers",
}
SIZE_OF_HEADS = {"head_dim": "hidden_size / num_attention_heads, which the class takes without it"}

UNUSED_MISTRAL = {key: reason for key, reason in UNUSED.items() if key in MISTRAL} | SIZE_OF_HEADS
NO_BLOCK = "no block of the layout reads it"


def below(section: str, reasons: Mapping[str, str]) -> dict[str, str]:
    """The reasons for keys of one section."""
    return {f"{section}.{key}": reason for key, reason in reasons.items()}


GEMMA4_LEFT_OUT = {
    "dtype": "the generated file writes it under its older name, torch_dtype",
    "expert_intermediate_size": "null in the published file, and not read by transformers",
    "use_bidirectional_attention": "`vision`: acts on the patches of images alone, which the text model has not",
}
GEMMA4_SOURCE = "the text_config of google/gemma-4-31B, as quoted in public test files of two projects"
PRODUCTION: dict[str, ProductionKeys] = {
    "llama": of_file("Llama-3.1-8B"),
    "llama-3-2": of_file("Llama-3.1-8B", beside="head_dim", source="meta-llama/Llama-3.2-1B: Llama-3.1's and head_dim"),
    "smollm2": of_file("SmolLM2-135M-Instruct"),
    "mistral": of_file("Mistral-7B-v0.1"),
    "mistral-nemo": of_file("Mistral-7B-v0.3", beside="head_dim", source="Mistral-Nemo: v0.3's and head_dim"),
    "mixtral": of_file("Mixtral-8x7B-v0.1"),
    "mixtral-published": of_file("Mixtral-8x7B-v0.1", source="Mixtral-8x7B-v0.1; Mixtral-8x22B has the same keys"),
    "qwen2": of_file("Qwen2.5-0.5B"),
    "qwen2-windows": of_file("Qwen2.5-0.5B"),
    "gemma4-experts": ProductionKeys(GEMMA4_SOURCE, True, GEMMA4, GEMMA4_LEFT_OUT),
    "gemma4-dense": ProductionKeys(GEMMA4_SOURCE, True, GEMMA4, GEMMA4_LEFT_OUT),
    "gemma4-31b": ProductionKeys(GEMMA4_SOURCE, True, GEMMA4, GEMMA4_LEFT_OUT),
    "gemma4-published": ProductionKeys(
        GEMMA4_SOURCE,
        True,
        frozenset(f"text_config.{key}" for key in GEMMA4) | split("architectures image_token_id model_type"),
        below("text_config", GEMMA4_LEFT_OUT),
    ),
    "llava": ProductionKeys(
        "transformers' LlavaConfig, PixtralVisionConfig and MistralConfig, as of mistral-community/pixtral-12b",
        False,
        LLAVA | PIXTRAL_TOWER | frozenset(f"text_config.{key}" for key in MISTRAL),
        {
            **below("text_config", {key: reason for key, reason in UNUSED.items() if key in MISTRAL}),
            "text_config.tie_word_embeddings": DEFAULT,
            **below("vision_config", {key: UNUSED[key] for key in ("attention_dropout", "initializer_range")}),
        },
    ),
    "mtp_llama": ProductionKeys(
        "configuration_mtp_llama.py", False, COMMON | LLAMA | split("prediction_heads"), UNUSED | SIZE_OF_HEADS
    ),
    "dream": ProductionKeys(
        "configuration_dream.py",
        False,
        COMMON
        | (LLAMA - split("attention_bias mlp_bias head_dim pretraining_tp"))
        | split("mask_token_id max_window_layers sliding_window use_sliding_window"),
        {key: UNUSED[key] for key in ("attention_dropout", "initializer_range", "use_cache")},
    ),
    "diffusion_llama": ProductionKeys(
        "configuration_diffusion_llama.py", False, COMMON | LLAMA | split("mask_token_id"), UNUSED | SIZE_OF_HEADS
    ),
    "apriel_hybrid_ssm": ProductionKeys(
        "configuration_apriel_hybrid_ssm.py, and MistralConfig",
        False,
        COMMON | HYBRID,
        {key: reason for key, reason in UNUSED.items() if key in MISTRAL}
        | SIZE_OF_HEADS
        | {"gdn_cfg": "no block of the layout reads it"},
    ),
    "llava_hybrid_ssm": ProductionKeys(
        "configuration_llava_hybrid.py, and the classes of Pixtral and Mistral",
        False,
        COMMON | LLAVA | PIXTRAL_TOWER | frozenset(f"text_config.{key}" for key in HYBRID),
        {
            **below("text_config", {**UNUSED_MISTRAL, "gdn_cfg": NO_BLOCK}),
            **below("vision_config", {key: UNUSED[key] for key in ("attention_dropout", "initializer_range")}),
        },
    ),
    "apriel2_text": ProductionKeys(
        "configuration_apriel2.py, examples/stochastic_supernet.yaml",
        False,
        COMMON | APRIEL2,
        {key: UNUSED[key] for key in ("pad_token_id", "use_cache")},
    ),
    "apriel2": ProductionKeys(
        "configuration_apriel2.py, examples/stochastic_supernet.yaml, and what Fast-LLM exports of a llava model",
        False,
        COMMON
        | APRIEL2
        | split("image_token_index")
        | split(
            "adapter.activation adapter.add_linear_biases adapter.gated adapter.intermediate_size adapter.type "
            "embeddings.input_channels embeddings.normalization.epsilon embeddings.normalization.type "
            "embeddings.patch_height embeddings.patch_width encoder.num_blocks encoder.type hidden_size",
            "vision_encoder.",
        ),
        {key: UNUSED[key] for key in ("pad_token_id", "use_cache")},
    ),
}
"""By the name of the generated model (benchmarks.format_models)."""
SAME = {"dream-carried": "dream"}
"""Generated models with the config of another one."""
