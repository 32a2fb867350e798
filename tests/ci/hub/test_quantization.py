from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import QuantizedError
from ci.hub.fetch import FetchRequest, fetch
from ci.hub.quantization import check_quantization
from tests.ci.hub.samples import CONFIG, MODEL, make_repository, model_shapes

if TYPE_CHECKING:
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
REQUEST = FetchRequest(MODEL, refuse_quantized=True)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"quantization_config": FP8}, r"quantization_config: fp8, blocks of \[128, 128\]"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
            "gptq, 4 bits, blocks of 128",
        ),
        ({"text_config": {"quantization_config": {"quant_method": "mxfp4"}}}, "text_config.quantization_config: mxfp4"),
        ({"compression_config": {"format": "pack-quantized"}}, "compression_config: pack-quantized"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantization: no quant_method, 4 bits, blocks of 64"),
        ({"quantization_config": "fp8"}, "quantization_config: fp8"),
    ],
)
def test_a_config_that_describes_codes_is_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(QuantizedError, match=says) as refused:
        check_quantization({**CONFIG, **config}, {}, what="o/n")
    assert "\n" not in str(refused.value)


LAYER = "model.layers.0.mlp.up_proj."
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_scheme": {"num_bits": 8}}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
SCHEMES: dict[str, tuple[dict[str, Any], str, dict[str, str], str]] = {
    "FP8, block scales": (
        {**FP8, "fmt": "e4m3"},
        r"fp8, e4m3, blocks of \[128, 128\]",
        {"weight": "F8_E4M3", "weight_scale_inv": "F32"},
        "FP8 with block scales",
    ),
    "FP8, one scale": (
        {"quant_method": "fp8", "activation_scheme": "static"},
        "quantization_config: fp8",
        {"weight": "F8_E4M3", "weight_scale": "F32", "input_scale": "F32"},
        "FP8 or BitNet: ",
    ),
    "FP8, a scale a row": (
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
        "fbgemm_fp8",
        {"weight": "F8_E4M3", "weight_scale": "F32"},
        "FP8 or BitNet: ",
    ),
    "MXFP4": (
        {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
        "quantization_config: mxfp4",
        {"experts.gate_up_proj_blocks": "U8", "experts.gate_up_proj_scales": "U8"},
        "MXFP4",
    ),
    "GPTQ": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
        "gptq, 4 bits, blocks of 128",
        {"qweight": "I32", "qzeros": "I32", "scales": "F16", "g_idx": "I32"},
        "AWQ or GPTQ",
    ),
    "AWQ": (
        {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
        "awq, 4 bits, blocks of 128",
        {"qweight": "I32", "qzeros": "I32", "scales": "F16"},
        "AWQ or GPTQ",
    ),
    "bitsandbytes, 4 bits": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "bitsandbytes, 4 bits",
        {
            "weight": "U8",
            "weight.absmax": "F32",
            "weight.quant_map": "F32",
            "weight.quant_state.bitsandbytes__nf4": "U8",
        },
        "bitsandbytes",
    ),
    "bitsandbytes, 8 bits": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "bitsandbytes, 8 bits",
        {"weight": "I8", "SCB": "F32", "weight_format": "U8"},
        "bitsandbytes",
    ),
    "compressed-tensors, packed": (
        COMPRESSED,
        "compressed-tensors, pack-quantized",
        {"weight_packed": "I32", "weight_scale": "BF16", "weight_shape": "I64"},
        "compressed-tensors",
    ),
    "compressed-tensors, FP8": (
        {**COMPRESSED, "format": "float-quantized"},
        "compressed-tensors, float-quantized",
        {"weight": "F8_E4M3", "weight_scale": "BF16"},
        "FP8 or BitNet: ",
    ),
    "NVFP4 of modelopt": (
        MODELOPT,
        "modelopt, NVFP4",
        {"weight": "U8", "weight_scale": "F8_E4M3", "weight_scale_2": "F32", "input_scale": "F32"},
        "NVFP4",
    ),
    "NVFP4 of compressed-tensors": (
        {**COMPRESSED, "format": "nvfp4-pack-quantized"},
        "compressed-tensors, nvfp4-pack-quantized",
        {"weight_packed": "U8", "weight_scale": "F8_E4M3", "weight_global_scale": "F32"},
        "NVFP4",
    ),
    "HQQ": ({"quant_method": "hqq"}, "hqq", {"W_q": "U8", "scale": "F16", "zero": "F16"}, "unknown scheme"),
    "AQLM": ({"quant_method": "aqlm"}, "aqlm", {"codes": "I8", "codebooks": "F16", "scales": "F16"}, "unknown scheme"),
    "BitNet": ({"quant_method": "bitnet"}, "bitnet", {"weight": "U8", "weight_scale": "BF16"}, "FP8 or BitNet: "),
    "Quanto": ({"quant_method": "quanto"}, "quanto", {"weight._data": "I8", "weight._scale": "BF16"}, "unknown scheme"),
}
"""Each scheme as it is published: its settings, how they are told, the tensors of one linear layer, and their name."""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_is_refused_by_name_from_its_config(scheme: str) -> None:
    settings, told, _, _ = SCHEMES[scheme]
    for config in ({"quantization_config": settings}, {"text_config": {"quantization_config": settings}}):
        with pytest.raises(QuantizedError, match=told):
            check_quantization({**CONFIG, **config}, {}, what="o/n")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_is_refused_from_its_tensors_alone(scheme: str) -> None:
    """Some repositories lost the settings, or have them in a file of their own (hf_quant_config.json of modelopt)."""
    _, _, tensors, told = SCHEMES[scheme]
    named = {"model.norm.weight": "BF16", **{f"{LAYER}{name}": dtype for name, dtype in tensors.items()}}
    with pytest.raises(QuantizedError, match=told):
        check_quantization(CONFIG, named, what="o/n")


@pytest.mark.parametrize("config", [{}, {"quantization_config": None}, {"quantization_config": {}}])
def test_a_config_without_codes_passes(config: dict[str, Any]) -> None:
    check_quantization({**CONFIG, **config}, {"model.layers.0.mlp.up_proj.weight": "BF16"}, what="o/n")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("model.layers.0.mlp.up_proj.weight", "F8_E4M3"),  # DeepSeek-V3, and any that forgot to say so
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "F32"),
        ("model.layers.0.mlp.up_proj.qweight", "I32"),  # GPTQ, AWQ
        ("model.layers.0.mlp.up_proj.scales", "F16"),
        ("model.layers.0.mlp.experts.gate_up_proj_blocks", "U8"),  # MXFP4, gpt-oss
        ("model.layers.0.mlp.up_proj.weight", "U8"),  # NVFP4, bitsandbytes
        ("model.layers.0.mlp.up_proj.weight_packed", "I32"),  # compressed-tensors
        ("model.layers.0.mlp.up_proj.SCB", "F32"),  # LLM.int8()
    ],
)
def test_tensors_of_quantised_weights_are_refused_whatever_the_config_says(name: str, dtype: str) -> None:
    with pytest.raises(QuantizedError, match=name.replace(".", r"\.")):
        check_quantization(CONFIG, {"model.norm.weight": "BF16", name: dtype}, what="o/n")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("h.0.attn.bias", "U8"),  # GPT-2's mask
        ("embeddings.position_ids", "I64"),
        ("model.layers.0.layer_scalar", "BF16"),  # Gemma 4
        ("model.layers.0.router.per_expert_scale", "BF16"),
        ("model.layers.0.self_attn.k_norm.weight", "F32"),
    ],
)
def test_masks_positions_and_scalars_are_no_codes(name: str, dtype: str) -> None:
    check_quantization(CONFIG, {name: dtype}, what="o/n")


@pytest.mark.parametrize(
    ("config", "dtype"), [({"quantization_config": FP8}, "BF16"), ({}, "F8_E4M3")], ids=["config", "headers"]
)
def test_nothing_of_a_quantised_model_is_downloaded_for_a_subject(
    config: dict[str, Any], dtype: str, hub: HubServer, settings: Settings, tmp_path: Path
) -> None:
    hub.add(MODEL, make_repository(tmp_path / "r", config={**CONFIG, **config}, dtype=dtype, tensors=model_shapes()))
    with pytest.raises(QuantizedError, match="owner/model@"):
        fetch(REQUEST, settings)
    assert not list(settings.cache.rglob("*.safetensors"))
    fetched = fetch(FetchRequest(MODEL), settings)  # by hand, such a repository can be fetched
    assert fetched.bytes_kept
    with pytest.raises(QuantizedError, match="owner/model@"):
        fetch(REQUEST, settings)  # and a stored one is refused too
