"""Tells quantised weights from plain ones, by config.json and by the tensors' names and dtypes. Standard library only.

The stored numbers of a quantised weight are codes: without their scales they are no weights. A subject that casts codes
to floats computes something else without an error, so such a checkpoint is refused before any subject sees it.
https://huggingface.co/docs/transformers/main_classes/quantization lists the methods and their settings.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ci.errors import QuantizedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
"""Keys of config.json that describe a quantisation: transformers', compressed-tensors' older one, and MLX's."""
CODE_DTYPES = frozenset({"F4", "F6_E2M3", "F6_E3M2", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
"""Dtypes of safetensors that hold codes or scales of codes, whatever the tensor's name is."""
INTEGER_DTYPES = frozenset({"U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64"})
CODE_NAME = re.compile(r"(^|\.)(\w*weight\w*|w[123]|W_q|qweight|qzeros|codes|\w*_blocks|\w*_packed|\w*_proj|_data)$")
"""Last parts of tensors' names that are codes where the dtype is an integer; masks and positions are not among them."""
SCALE_NAME = re.compile(
    r"(^|\.)(weight_scale(_inv|_2)?|weight_(absmax|packed|quant_map|shape|global_scale)|qweight|qzeros|scales|g_idx"
    r"|absmax|quant_map|quant_state\.\w+|SCB|\w+_proj_(blocks|scales))$"
)
"""Last parts of names that only quantised weights have: FP8, compressed-tensors, GPTQ and AWQ, MXFP4, bitsandbytes."""
SCHEMES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("NVFP4", re.compile(r"\.(weight_scale_2|weight_global_scale)$")),
    ("FP8 with block scales", re.compile(r"\.weight_scale_inv$")),
    ("MXFP4", re.compile(r"_(blocks|scales)$")),
    ("AWQ or GPTQ", re.compile(r"\.(qweight|qzeros|g_idx)$")),
    ("bitsandbytes", re.compile(r"\.(SCB|absmax|quant_map|quant_state\.\w+|weight_absmax|weight_quant_map)$")),
    ("compressed-tensors", re.compile(r"\.(weight_packed|weight_shape)$")),
    ("FP8 or BitNet", re.compile(r"\.weight_scale$")),
)
"""Tensors by which a scheme is known where no config names it; the first that any tensor matches is told."""


def check_quantization(config: Mapping[str, Any], tensors: Mapping[str, str], *, what: str) -> None:
    """Raise QuantizedError for a checkpoint whose weights are quantised.

    `tensors` maps names to safetensors' dtypes; empty where they are not known yet.
    """
    found = next(_describe_config(config, ""), "") or describe_tensors(tensors)
    if found:
        raise QuantizedError(
            f"{what}: its weights are quantised ({found}), and hub-tests does not dequantise them: the subject would "
            "be given codes instead of weights; name a repository with the weights in bfloat16, float16 or float32, or "
            'of FP8 with weight_scale_inv the rule: dequantize = "fp8-blocks" in the registry'
        )


def _describe_config(config: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield each quantisation that a config.json describes, of the whole model or of a part."""
    for key, value in config.items():
        if key in CONFIG_KEYS and value:
            yield f"{path}{key}: {_name_method(value)}"
        elif isinstance(value, dict):
            yield from _describe_config(value, f"{path}{key}.")


def _name_method(value: Any) -> str:
    """Return the method, its format and its width, as far as the settings say them."""
    if not isinstance(value, dict):
        return str(value)[:80]
    method, layout = value.get("quant_method"), value.get("quant_algo") or value.get("format") or value.get("fmt")
    bits = value.get("bits") or value.get("weight_bits") or value.get("num_bits") or _find_loaded_bits(value)
    blocks = value.get("weight_block_size") or value.get("group_size")
    named = (str(one) for one in (method, layout) if one)
    facts = (*(named if method or layout else ("no quant_method",)), f"{bits} bits" if bits else "")
    return ", ".join(fact[:40] for fact in (*facts, f"blocks of {blocks}" if blocks else "") if fact)


def _find_loaded_bits(value: Mapping[str, Any]) -> int | None:
    """Return the bits of bitsandbytes' settings, which are switches."""
    return next((bits for bits in (4, 8) if value.get(f"load_in_{bits}bit") is True), None)


def describe_tensors(tensors: Mapping[str, str]) -> str:
    """Describe the first tensor that is a code or a scale, with its scheme; or ""."""
    found = next(((name, dtype) for name, dtype in tensors.items() if _is_quantized(name, dtype)), None)
    if found is None:
        return ""
    scheme = next((scheme for scheme, mark in SCHEMES if any(mark.search(name) for name in tensors)), "unknown scheme")
    return f"{scheme}: tensor {found[0][:200]} of dtype {found[1]}"


def _is_quantized(name: str, dtype: str) -> bool:
    is_code = dtype in INTEGER_DTYPES and CODE_NAME.search(name) is not None
    return dtype in CODE_DTYPES or is_code or SCALE_NAME.search(name) is not None
