"""A generated model with FP8 weights and a scale for each block, as DeepSeek-V3 is published."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from tests.standin.models import write_json

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

FP8_MAX = 448.0
"""The largest number of float8_e4m3fn."""
INDEX = "model.safetensors.index.json"


def quantize_blocks(weight: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return float8 codes (R, C) and float32 scales, one for each block; the last blocks may be smaller."""
    rows, columns = weight.shape
    counts = [-(-side // width) for side, width in zip(weight.shape, block, strict=True)]
    padded = torch.zeros(counts[0] * block[0], counts[1] * block[1])
    padded[:rows, :columns] = weight.float()
    scales = padded.view(counts[0], block[0], counts[1], block[1]).abs().amax((1, 3)) / FP8_MAX
    spread = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:rows, :columns]
    return (weight.float() / spread).to(torch.float8_e4m3fn), scales


def write_fp8(source: Path, target: Path, block: tuple[int, int]) -> Path:
    """Copy a model to the new directory `target` with FP8 weights in its linear layers; each scale is its own."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    weight_map: dict[str, str] = {}
    for file in sorted(source.glob("*.safetensors")):
        stored: dict[str, Tensor] = {}
        for name, weight in load_file(file).items():
            quantized = name.endswith("_proj.weight")
            codes, scales = quantize_blocks(weight, block) if quantized else (weight, None)
            stored |= {name: codes} if scales is None else {name: codes, f"{name}_scale_inv": scales}
        save_file(stored, target / file.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(stored, file.name)
    if (target / INDEX).is_file():
        write_json(target / INDEX, {"metadata": {}, "weight_map": weight_map})
    config = json.loads((source / "config.json").read_bytes())
    settings = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(block), "activation_scheme": "dynamic"}
    write_json(target / "config.json", {**config, "quantization_config": settings})
    return target


def cast_codes(source: Path, target: Path) -> Path:
    """Copy an FP8 model to `target` as a loader reads it that casts codes to bfloat16 and drops the scales."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", INDEX))
    weights: dict[str, Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        weights |= {name: weight.to(torch.bfloat16) for name, weight in load_file(file).items()}
    kept = {name: weight for name, weight in weights.items() if not name.endswith("_scale_inv")}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_bytes())
    write_json(target / "config.json", {key: value for key, value in config.items() if key != "quantization_config"})
    return target
