"""Quantised checkpoints as they are published: a generated llama whose linear layers hold codes and scales."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from tests.standin.models import repository

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

Tensors = dict[str, "Tensor"]
FP8_MAX = 448.0
"""The largest number of float8_e4m3fn."""


def quantize_to_fp8(name: str, weight: Tensor) -> Tensors:
    """Return codes and one scale for each block of 128 x 128, as DeepSeek-V3 has them: here all the same."""
    scale = weight.abs().max() / FP8_MAX
    blocks = torch.full([-(-side // 128) for side in weight.shape], float(scale))
    return {name: (weight / scale).to(torch.float8_e4m3fn), f"{name}_scale_inv": blocks}


def quantize_to_int8(name: str, weight: Tensor) -> Tensors:
    """Return codes and one scale a row, as LLM.int8() has them."""
    largest = weight.abs().amax(1, keepdim=True)
    codes = (weight / largest * 127).round().to(torch.int8)
    return {name: codes, name.replace("weight", "SCB"): largest.flatten()}


def pack_as_gptq(name: str, weight: Tensor) -> Tensors:
    """Return tensors with GPTQ's names, dtypes and shapes of 4 bits."""
    layer, (rows, columns) = name.removesuffix("weight"), weight.shape
    return {
        f"{layer}qweight": torch.full((columns // 8, rows), 0x77777777, dtype=torch.int32),
        f"{layer}qzeros": torch.full((1, rows // 8), 0x77777777, dtype=torch.int32),
        f"{layer}scales": torch.ones(1, rows, dtype=torch.float16),
    }


def pack_as_mxfp4(name: str, weight: Tensor) -> Tensors:
    """Return tensors with MXFP4's names and dtypes: two codes a byte, one exponent for 32 codes."""
    layer, (rows, columns) = name.removesuffix(".weight"), weight.shape
    blocks = torch.full((rows, columns // 32, 16), 0x22, dtype=torch.uint8)
    return {f"{layer}_blocks": blocks, f"{layer}_scales": torch.full(blocks.shape[:2], 127, dtype=torch.uint8)}


SCHEMES: dict[str, tuple[Callable[[str, Tensor], Tensors], dict[str, Any]]] = {
    "fp8": (quantize_to_fp8, {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}),
    "bitsandbytes": (quantize_to_int8, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "gptq": (pack_as_gptq, {"quant_method": "gptq", "bits": 4, "group_size": -1}),
    "mxfp4": (pack_as_mxfp4, {"quant_method": "mxfp4"}),
}


def write_quantized(directory: Path, scheme: str, *, settings: bool) -> Path:
    """Write the model; without `settings`, config.json does not say that it is quantised."""
    source, (quantize, described) = repository("stand-in/llama"), SCHEMES[scheme]
    directory.mkdir()
    weights: Tensors = {}
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            weights |= load_file(file)
        elif not file.name.endswith(".index.json"):
            shutil.copy(file, directory)
    parts = (quantize(n, w.float()) if n.endswith("_proj.weight") else {n: w} for n, w in weights.items())
    stored = {name: tensor.contiguous() for part in parts for name, tensor in part.items()}
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    more = {"quantization_config": described} if settings else {}
    (directory / "config.json").write_text(json.dumps({**config, **more}))
    return directory
