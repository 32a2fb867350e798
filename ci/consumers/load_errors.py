"""Why an engine does not load a checkpoint: the class of a fault, from the words of vLLM and of transformers.

Pure text: both libraries raise standard exceptions, so their words are all that tells these faults apart.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

LoadFault = Literal[
    "architecture_refused",
    "tensor_missing",
    "shape_mismatch",
    "context_short",
    "config_unknown",
    "tokenizer_absent",
    "other",
]

PATTERNS: Mapping[LoadFault, re.Pattern[str]] = {
    "tokenizer_absent": re.compile(r"tokenizer", re.IGNORECASE),
    "architecture_refused": re.compile(
        r"[Mm]odel architectures? .*(?:not supported|failed to be inspected)|[Uu]nrecognized model|"
        r"model type `?\S+ but Transformers does not recognize|[Ss]hould have a `?model_type|"
        r"does not recognize this architecture|no model architectures"
    ),
    "tensor_missing": re.compile(
        r"tensors? (?:are|is) missing|not initialized from (?:the )?checkpoint|[Mm]issing (?:keys?|weights?|tensors?)|"
        r"no module or parameter named|[Uu]nexpected (?:keys?|weights?)|^KeyError: .*(?:weight|bias|layers)|"
        r"Cannot find any model weights|No such file .*safetensors|no file named"
    ),
    "shape_mismatch": re.compile(
        r"size mismatch|shape mismatch|mismatched|does not match|must match|Attempted to load weight|"
        r"shapes? .*(?:differ|incompatible)|invalid for input of size|exceeds dimension size|AssertionError",
        re.IGNORECASE,
    ),
    "context_short": re.compile(r"longer than the maximum (?:model|context) length|exceeds? .*max_model_len"),
    "config_unknown": re.compile(
        r"[Uu]nknown (?:RoPE|rope|activation|quantization|config)|rope|`?\w+`? is not supported|"
        r"unrecognized (?:key|value)|"
        r"validation error|config|KeyError|AttributeError|TypeError|head.?size|divisible",
    ),
}
"""In the order in which they are tried: a message can name a tensor and a config key."""

SENTENCES: Mapping[LoadFault, str] = {
    "architecture_refused": "the engine refuses the architecture",
    "tensor_missing": "a tensor is missing, or has another name",
    "shape_mismatch": "a tensor has another shape than the config says",
    "context_short": "the config allows a shorter context than the original's",
    "config_unknown": "the engine does not understand the config",
    "tokenizer_absent": "the tokenizer is absent, or cannot be read",
    "other": "the engine does not load it",
}


def find_load_fault(message: str) -> LoadFault:
    """Return the class of a loading fault from the one-line message of an engine's exception."""
    return next((fault for fault, pattern in PATTERNS.items() if pattern.search(message)), "other")
