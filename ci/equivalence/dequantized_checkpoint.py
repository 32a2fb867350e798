"""A checkpoint whose FP8 weights are written as bfloat16, by the rule with which DeepSeek-V3 publishes them.

A weight of shape (R, C) is float8_e4m3fn codes and `weight_scale_inv`, float32 of shape (ceil(R / 128), ceil(C / 128)):
each element is its code times the scale of its block, and that product is rounded to bfloat16. The last blocks may be
smaller. https://github.com/deepseek-ai/DeepSeek-V3/blob/main/README_WEIGHTS.md and `weight_dequant` in
inference/kernel.py there; transformers does the same (`Fp8Dequantize` in integrations/finegrained_fp8.py).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from ci.companion_files import copy_companions
from ci.equivalence.checkpoint_tensors import CheckpointTensors
from ci.errors import QuantizedError
from ci.hub.quantization import check_quantization

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

CONFIG, SETTINGS = "config.json", "quantization_config"
SCALES = "_scale_inv"
DEFAULT_BLOCK = (128, 128)
RULE = 'dequantize = "fp8-blocks" writes float8_e4m3fn weights with weight_scale_inv as bfloat16'


def dequantize_blocks(codes: Tensor, scales: Tensor, block: tuple[int, int] = DEFAULT_BLOCK) -> Tensor:
    """Multiply each code with the scale of its block, in float32, and round to bfloat16.

    `codes` is (R, C), `scales` (ceil(R / block[0]), ceil(C / block[1])). Raises ValueError for other scales.
    """
    rows, columns = codes.shape
    if scales.shape != (-(-rows // block[0]), -(-columns // block[1])):
        raise ValueError(f"scales of shape {tuple(scales.shape)} do not fit {tuple(codes.shape)} in blocks of {block}")
    tall = scales.float().repeat_interleave(block[0], 0)[:rows]
    return (codes.float() * tall.repeat_interleave(block[1], 1)[:, :columns]).to(torch.bfloat16)


def dequantize_checkpoint(source: Path, target: Path, *, what: str) -> Path:
    """Write `source` with plain weights at `target` (must not exist), and return it.

    Raises QuantizedError, naming `what`, for a checkpoint that is quantised in another way, or not at all.
    """
    config = json.loads((source / CONFIG).read_bytes())
    block = _read_block(config.get(SETTINGS), what)
    tensors = CheckpointTensors(source)
    scaled = [name for name in tensors.files if f"{name}{SCALES}" in tensors]
    if not scaled:
        raise QuantizedError(f"{what}: no tensor has {SCALES[1:]} beside it, and {RULE}; drop the key")
    target.mkdir(parents=True)
    for file in dict.fromkeys(tensors.files.values()):
        kept = (name for name, place in tensors.files.items() if place == file and not name.endswith(SCALES))
        plain = {name: _read_plain(tensors, name, block, what) for name in kept}
        save_file(plain, target / file.name, metadata={"format": "pt"})
    plain_config = {key: value for key, value in config.items() if key != SETTINGS}
    (target / CONFIG).write_text(json.dumps(plain_config), encoding="utf-8")
    _copy_others(source, target)
    check_quantization(plain_config, CheckpointTensors(target).read_dtypes(), what=f"{what}, with FP8 dequantised")
    return target


def _read_block(settings: Any, what: str) -> tuple[int, int]:
    """Return the block's sides. Raises QuantizedError for settings that are not those of FP8 blocks."""
    known: Mapping[str, Any] = settings if isinstance(settings, dict) else {}
    method, block = known.get("quant_method"), known.get("weight_block_size", list(DEFAULT_BLOCK))
    sides = [side for side in block if isinstance(side, int) and side > 0] if isinstance(block, list) else []
    if method != "fp8" or len(sides) != 2 or sides != block:
        named = f"quant_method {method!r}, weight_block_size {block!r}"
        raise QuantizedError(f"{what}: config.json says {named[:200]}, and {RULE}; drop the key")
    return sides[0], sides[1]


def _read_plain(tensors: CheckpointTensors, name: str, block: tuple[int, int], what: str) -> Tensor:
    """Read a tensor; of codes, what they stand for."""
    stored = tensors.read(name)
    if f"{name}{SCALES}" not in tensors:
        return stored
    if stored.dtype != torch.float8_e4m3fn or stored.dim() != 2:
        raise QuantizedError(f"{what}: {name} is {stored.dtype} of {stored.dim()} dimensions, and {RULE}")
    try:
        return dequantize_blocks(stored, tensors.read(f"{name}{SCALES}"), block)
    except ValueError as problem:
        raise QuantizedError(f"{what}: {name}: {problem}") from None


def _copy_others(source: Path, target: Path) -> None:
    """Copy tokenizer and other companions; an index of the weights without the scales."""
    copy_companions(source, target)
    for file in source.glob("*.safetensors.index.json"):
        index: Mapping[str, Any] = json.loads(file.read_bytes())
        kept = {name: place for name, place in index["weight_map"].items() if not name.endswith(SCALES)}
        (target / file.name).write_text(json.dumps({**index, "weight_map": kept}), encoding="utf-8")
