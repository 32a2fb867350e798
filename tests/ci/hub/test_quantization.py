from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import QuantizedError
from ci.hub.fetch import FetchRequest, fetch
from ci.hub.quantization import check_quantization
from tests.ci.hub.quantization_settings import MORE, PUBLISHED
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
SCHEMES: dict[str, tuple[dict[str, str], str]] = {
    "FP8, block scales": ({"weight": "F8_E4M3", "weight_scale_inv": "F32"}, "FP8 with block scales"),
    "FP8, one scale": ({"weight": "F8_E4M3", "weight_scale": "F32", "input_scale": "F32"}, "FP8 or BitNet: "),
    "FP8, a scale a row": ({"weight": "F8_E4M3", "weight_scale": "F32"}, "FP8 or BitNet: "),
    "MXFP4": ({"experts.gate_up_proj_blocks": "U8", "experts.gate_up_proj_scales": "U8"}, "MXFP4"),
    "GPTQ": ({"qweight": "I32", "qzeros": "I32", "scales": "F16", "g_idx": "I32"}, "AWQ or GPTQ"),
    "AWQ": ({"qweight": "I32", "qzeros": "I32", "scales": "F16"}, "AWQ or GPTQ"),
    "bitsandbytes, 4 bits": (
        {
            "weight": "U8",
            "weight.absmax": "F32",
            "weight.quant_map": "F32",
            "weight.quant_state.bitsandbytes__nf4": "U8",
        },
        "bitsandbytes",
    ),
    "bitsandbytes, 8 bits": ({"weight": "I8", "SCB": "F32", "weight_format": "U8"}, "bitsandbytes"),
    "compressed-tensors, packed": (
        {"weight_packed": "I32", "weight_scale": "BF16", "weight_shape": "I64"},
        "compressed-tensors",
    ),
    "compressed-tensors, FP8": ({"weight": "F8_E4M3", "weight_scale": "BF16"}, "FP8 or BitNet: "),
    "NVFP4 of modelopt": (
        {"weight": "U8", "weight_scale": "F8_E4M3", "weight_scale_2": "F32", "input_scale": "F32"},
        "NVFP4",
    ),
    "NVFP4 of compressed-tensors": (
        {"weight_packed": "U8", "weight_scale": "F8_E4M3", "weight_global_scale": "F32"},
        "NVFP4",
    ),
    "HQQ": ({"W_q": "U8", "scale": "F16", "zero": "F16"}, "unknown scheme"),
    "AQLM": ({"codes": "I8", "codebooks": "F16", "scales": "F16"}, "unknown scheme"),
    "BitNet": ({"weight": "U8", "weight_scale": "BF16"}, "FP8 or BitNet: "),
    "Quanto": ({"weight._data": "I8", "weight._scale": "BF16"}, "unknown scheme"),
}
"""The tensors of one linear layer as each scheme publishes them, and what they are called."""


@pytest.mark.parametrize("scheme", [*PUBLISHED, *MORE])
def test_each_scheme_is_refused_by_name_from_its_config(scheme: str) -> None:
    settings, told = {**PUBLISHED, **MORE}[scheme]
    for config in ({"quantization_config": settings}, {"text_config": {"quantization_config": settings}}):
        with pytest.raises(QuantizedError, match=told):
            check_quantization({**CONFIG, **config}, {}, what="o/n")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_is_refused_from_its_tensors_alone(scheme: str) -> None:
    """Some repositories lost the settings, or have them in a file of their own (hf_quant_config.json of modelopt)."""
    tensors, told = SCHEMES[scheme]
    named = {"model.norm.weight": "BF16", **{f"{LAYER}{name}": dtype for name, dtype in tensors.items()}}
    with pytest.raises(QuantizedError, match=told):
        check_quantization(CONFIG, named, what="o/n")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_is_refused_before_a_weight_is_downloaded(
    scheme: str, hub: HubServer, settings: Settings, tmp_path: Path
) -> None:
    """By its published settings no shard is even asked for; without them the headers are enough."""
    published, told = PUBLISHED[scheme]
    described = make_repository(tmp_path / "r", config={**CONFIG, "quantization_config": published})
    hub.add(MODEL, described)
    with pytest.raises(QuantizedError, match=told):
        fetch(REQUEST, settings)
    assert hub.requests("cdn") == []
    assert not [request for request in hub.requests("hub") if str(request.file).endswith(".safetensors")]


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
