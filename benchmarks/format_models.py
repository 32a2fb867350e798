"""A small model of each format that Fast-LLM converts.

Structure as in the production models, sizes odd and small.
"""

from __future__ import annotations

from benchmarks.format_configs import (
    APRIEL,
    APRIEL2_MAP,
    APRIEL2_TEXT_MAP,
    DECODER,
    DREAM,
    GEMMA4_VISION,
    LLAMA,
    SIZES,
    UNTIED,
    VISION,
    make_auto_map,
    make_own_config,
)
from benchmarks.format_model import EXTERNAL, OLDER, FormatModel, make_external, make_mtp_llama, make_plain
from tests.standin.recipes import GEMMA4, GEMMA4_31B, LLAMA3, PIXTRAL, RECIPES, Recipe

MODELS = (
    FormatModel("llama", "llama", "meta-llama/Llama-3.1-8B", gated=True),
    make_plain(
        *("llama-3-2", "llama", "Llama-3.1-8B"),
        rope_scaling={**LLAMA3, "factor": 32.0},
        tie_word_embeddings=True,
        head_dim=16,
    ),
    make_plain("smollm2", "llama", "SmolLM2-135M-Instruct"),
    FormatModel("mistral", "mistral", "mistralai/Mistral-7B-v0.1"),
    make_plain("mistral-nemo", "mistral", "Mistral-7B-v0.3", head_dim=20),
    FormatModel("mixtral", "mixtral", "stand-in/mixtral-head-dim"),
    FormatModel("mixtral-published", "mixtral", "mistralai/Mixtral-8x7B-v0.1"),
    FormatModel("qwen2", "qwen2", "Qwen/Qwen2.5-0.5B"),
    make_plain(
        "qwen2-windows", "qwen2", "Qwen2.5-0.5B", use_sliding_window=True, sliding_window=20, max_window_layers=1
    ),
    FormatModel("gemma4-experts", "gemma4", "stand-in/gemma4-experts", environment=OLDER),
    FormatModel("gemma4-dense", "gemma4", "stand-in/gemma4-dense", environment=OLDER),
    FormatModel(
        *("gemma4-31b", "gemma4", Recipe("stand-in/gemma4-31b", "gemma-4-26B-A4B", {**GEMMA4, **GEMMA4_31B})),
        environment=OLDER,
    ),
    FormatModel(
        "gemma4-published",
        "gemma4",
        config={
            "model_type": "gemma4",
            "architectures": ["Gemma4ForConditionalGeneration"],
            "text_config": RECIPES["stand-in/gemma4-experts"].config | {"architectures": None},
            "vision_config": GEMMA4_VISION,
            "image_token_id": 10,
            "bos_token_id": 256,
            "eos_token_id": 257,
            "transformers_version": "5.14.1",
        },
        environment=OLDER,
    ),
    FormatModel("llava", "llava", "stand-in/llava", model_config="multimodal"),
    make_mtp_llama("mtp_llama"),
    make_external("dream", "diffusion_dream", "hf-4-57", DREAM),
    FormatModel(
        "dream-carried",
        "dream",
        config=DREAM,
        code_environment="hf-4-57",
        code_path=f"{EXTERNAL}/diffusion_dream",
        carries_code=True,
    ),
    make_external(
        "diffusion_llama",
        "diffusion_llama",
        "hf-4-57",
        make_own_config(
            "diffusion_llama",
            "DiffusionLlamaModel",
            make_auto_map("diffusion_llama", "DiffusionLlamaConfig", "DiffusionLlamaModel", "AutoModel"),
            **{**LLAMA, **UNTIED, "mask_token_id": 300, "rope_scaling": None},
        ),
    ),
    make_external(
        "apriel_hybrid_ssm",
        "apriel_hybrid_ssm",
        "hf-4-57",
        make_own_config(
            "apriel_hybrid_ssm",
            "AprielHybridSSMForCausalLM",
            make_auto_map("apriel_hybrid_ssm", "AprielHybridSSMConfig", "AprielHybridSSMForCausalLM"),
            **APRIEL,
        ),
        by_name=True,
    ),
    make_external(
        "llava_hybrid_ssm",
        "llava_hybrid",
        "hf-4-57",
        make_own_config(
            "llava_hybrid",
            "LlavaHybridForConditionalGeneration",
            make_auto_map("llava_hybrid", "LlavaHybridConfig", "LlavaHybridForConditionalGeneration"),
            **{**PIXTRAL, "text_config": {**APRIEL, "model_type": "apriel_ssm_thinker_hybrid"}},
            projector_hidden_act="gelu",
            multimodal_projector_bias=True,
            image_seq_length=1,
            tie_word_embeddings=False,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        ),
        by_name=True,
        model_config="multimodal",
    ),
    make_external(
        "apriel2_text",
        "apriel2",
        "hf-5-14",
        make_own_config(
            "apriel2_text", "Apriel2ForCausalLM", APRIEL2_TEXT_MAP, **{**SIZES, **DECODER, "tie_word_embeddings": False}
        ),
    ),
    make_external(
        "apriel2",
        "apriel2",
        "hf-5-14",
        make_own_config(
            "apriel2",
            "Apriel2ForConditionalGeneration",
            APRIEL2_MAP,
            **{**SIZES, **DECODER, "vision_encoder": VISION, "image_token_index": 10, "tie_word_embeddings": False},
        ),
        model_config="multimodal",
    ),
)
"""Each of Fast-LLM's thirteen formats, and what published models of the plain ones have beside the usual."""
