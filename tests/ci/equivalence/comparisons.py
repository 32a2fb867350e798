"""Compared cases made by hand: one error a tensor, floors of one's choice, nothing run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ci.equivalence.case_result import CaseComparison
from ci.equivalence.inputs import InputCase
from ci.equivalence.tensor_compare import compare_tensors
from ci.equivalence.tolerances import NoiseFloor, Tolerances
from ci.equivalence.trace_compare import TraceDiff

if TYPE_CHECKING:
    from ci.subjects.base import DType

TOKENS = 20
FLOOR = 1e-6


def compared(
    *errors: float | tuple[float, float],
    dtype: DType = "float32",
    untrusted: str = "",
    names: tuple[str, ...] = ("embeddings", "decoder.0", "decoder.1", "logits"),
    excused: int = 0,
    diff: dict[str, Any] | None = None,
    **more: Any,
) -> CaseComparison:
    """A case of TOKENS tokens; each error is of one tensor, (whole, worst token), in units of the floor.

    The last `excused` tokens of every tensor do not count.
    """
    pairs = [error if isinstance(error, tuple) else (error, error) for error in errors]
    expected = torch.ones(1, TOKENS, 3, dtype=torch.float64)
    tensors = {}
    for name, (whole, token) in zip(names, pairs, strict=False):
        keep = torch.arange(TOKENS)[None] < TOKENS - excused
        base = compare_tensors(expected, expected, keep=keep)
        tensors[name] = replace(base, error=whole * FLOOR, token_error=token * FLOOR)
    tolerances = Tolerances(dtype, dict.fromkeys(tensors, NoiseFloor(FLOOR, FLOOR)), untrusted=untrusted)
    case = InputCase("batch", torch.zeros(1, TOKENS, dtype=torch.int64))
    return CaseComparison(case, tolerances, TraceDiff(tensors, **(diff or {})), ran={}, path=Path(), **more)
