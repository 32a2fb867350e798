"""`quantization_config` of published checkpoints, with every key that they have, and what a refusal calls each.

The forms are those of deepseek-ai/DeepSeek-V3, RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8, meta-llama/Llama-3.1-405B-
Instruct-FP8, openai/gpt-oss-20b, TheBloke/Llama-2-7B-Chat-GPTQ, Qwen/Qwen2.5-7B-Instruct-AWQ,
unsloth/llama-3-8b-bnb-4bit, RedHatAI's w4a16, FP8-dynamic and NVFP4, nvidia's NVFP4, and of the documentation of
transformers' quantisation methods.
"""

from __future__ import annotations

from typing import Any

BITSANDBYTES = {
    "_load_in_4bit": True,
    "_load_in_8bit": False,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0,
    "load_in_4bit": True,
    "load_in_8bit": False,
    "quant_method": "bitsandbytes",
}
WEIGHTS = {"dynamic": False, "num_bits": 4, "observer": "minmax", "strategy": "group", "symmetric": True, "type": "int"}
COMPRESSED = {
    "config_groups": {
        "group_0": {
            "input_activations": None,
            "output_activations": None,
            "targets": ["Linear"],
            "weights": {"actorder": None, "block_structure": None, "group_size": 128, **WEIGHTS},
        }
    },
    "format": "pack-quantized",
    "global_compression_ratio": 1.89,
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
}
UNCONVERTED = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
HQQ_WEIGHTS = {"axis": 1, "channel_wise": True, "group_size": 64, "nbits": 4, "optimize": True, "round_zero": True}
PUBLISHED: dict[str, tuple[dict[str, Any], str]] = {
    "FP8, block scales": (
        {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]},
        r"fp8, e4m3, blocks of \[128, 128\]",
    ),
    "FP8, one scale": (
        {"activation_scheme": "static", "ignored_layers": ["lm_head"], "quant_method": "fp8"},
        "quantization_config: fp8",
    ),
    "FP8, a scale a row": (
        {"activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"], "quant_method": "fbgemm_fp8"},
        "fbgemm_fp8",
    ),
    "MXFP4": ({"modules_to_not_convert": UNCONVERTED, "quant_method": "mxfp4"}, "quantization_config: mxfp4"),
    "GPTQ": (
        {
            "bits": 4,
            "damp_percent": 0.01,
            "desc_act": True,
            "group_size": 128,
            "model_file_base_name": "model",
            "model_name_or_path": None,
            "quant_method": "gptq",
            "sym": True,
            "true_sequential": True,
        },
        "gptq, 4 bits, blocks of 128",
    ),
    "AWQ": (
        {
            "bits": 4,
            "group_size": 128,
            "modules_to_not_convert": None,
            "quant_method": "awq",
            "version": "gemm",
            "zero_point": True,
        },
        "awq, 4 bits, blocks of 128",
    ),
    "bitsandbytes, 4 bits": (BITSANDBYTES, "bitsandbytes, 4 bits"),
    "bitsandbytes, 8 bits": (
        BITSANDBYTES
        | {"_load_in_4bit": False, "_load_in_8bit": True, "load_in_4bit": False, "load_in_8bit": True}
        | {"bnb_4bit_compute_dtype": "float32", "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False},
        "bitsandbytes, 8 bits",
    ),
    "compressed-tensors, packed": (COMPRESSED, "compressed-tensors, pack-quantized"),
    "compressed-tensors, FP8": (
        {**COMPRESSED, "format": "float-quantized"},
        "compressed-tensors, float-quantized",
    ),
    "NVFP4 of modelopt": (
        {
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float"}}},
            "ignore": ["lm_head"],
            "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
            "producer": {"name": "modelopt", "version": "0.35.0"},
            "quant_algo": "NVFP4",
            "quant_method": "modelopt",
        },
        "modelopt, NVFP4",
    ),
    "NVFP4 of compressed-tensors": (
        {**COMPRESSED, "format": "nvfp4-pack-quantized"},
        "compressed-tensors, nvfp4-pack-quantized",
    ),
    "HQQ": (
        {
            "quant_config": {"scale_quant_params": None, "weight_quant_params": HQQ_WEIGHTS},
            "quant_method": "hqq",
            "skip_modules": ["lm_head"],
        },
        "quantization_config: hqq",
    ),
    "AQLM": (
        {
            "in_group_size": 8,
            "linear_weights_not_to_quantize": ["lm_head.weight"],
            "nbits_per_codebook": 16,
            "num_codebooks": 1,
            "out_group_size": 1,
            "quant_method": "aqlm",
        },
        "quantization_config: aqlm",
    ),
    "BitNet": (
        {"linear_class": "autobitlinear", "quant_method": "bitnet", "quantization_mode": "offline"},
        "quantization_config: bitnet",
    ),
    "Quanto": (
        {"activations": None, "modules_to_not_convert": None, "quant_method": "quanto", "weights": "int8"},
        "quantization_config: quanto",
    ),
}
"""Settings and what a refusal says of them, by scheme."""
MORE: dict[str, tuple[dict[str, Any], str]] = {
    "torchao": (
        {
            "include_input_output_embeddings": False,
            "modules_to_not_convert": None,
            "quant_method": "torchao",
            "quant_type": {"default": {"_data": {"group_size": 128}, "_type": "Int4WeightOnlyConfig", "_version": 1}},
        },
        "torchao",
    ),
    "AutoRound": (
        {
            "autoround_version": "0.6.0",
            "bits": 4,
            "data_type": "int",
            "group_size": 128,
            "packing_format": "auto_round:auto_gptq",
            "quant_method": "auto-round",
            "sym": True,
        },
        "auto-round, 4 bits, blocks of 128",
    ),
    "EETQ": ({"modules_to_not_convert": ["lm_head"], "quant_method": "eetq", "weights": "int8"}, "eetq"),
    "VPTQ": ({"config_for_layers": {"model.layers.0.mlp.up_proj": {}}, "quant_method": "vptq"}, "vptq"),
    "a switch alone": ({"load_in_4bit": True}, "no quant_method, 4 bits"),
    "a method of tomorrow": ({"quant_method": "tomorrow", "secret": 1}, "tomorrow"),
}
"""Methods whose tensors no rule knows: config.json names them."""
