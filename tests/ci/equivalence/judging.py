"""Judged cases made by hand: one error a tensor, limits of one's choice, nothing run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ci.equivalence.compare import difference
from ci.equivalence.floors import Floor, Limits
from ci.equivalence.inputs import Case
from ci.equivalence.judged import Judged
from ci.equivalence.walk import Walked

if TYPE_CHECKING:
    from ci.subjects.base import DType

TOKENS = 20
FLOOR = 1e-6


def judged(
    *errors: float | tuple[float, float],
    dtype: DType = "float32",
    untrusted: str = "",
    names: tuple[str, ...] = ("embeddings", "decoder.0", "decoder.1", "logits"),
    excused: int = 0,
    walked: dict[str, Any] | None = None,
    **more: Any,
) -> Judged:
    """A case of TOKENS tokens; each error is of one tensor, (whole, worst token), in units of the floor.

    The last `excused` tokens of every tensor do not count.
    """
    pairs = [error if isinstance(error, tuple) else (error, error) for error in errors]
    expected = torch.ones(1, TOKENS, 3, dtype=torch.float64)
    found = {}
    for name, (whole, token) in zip(names, pairs, strict=False):
        keep = torch.arange(TOKENS)[None] < TOKENS - excused
        base = difference(expected, expected, keep=keep)
        found[name] = replace(base, error=whole * FLOOR, token_error=token * FLOOR)
    limits = Limits(dtype, dict.fromkeys(found, Floor(FLOOR, FLOOR)), untrusted=untrusted)
    case = Case("batch", torch.zeros(1, TOKENS, dtype=torch.int64))
    return Judged(case, limits, Walked(found, **(walked or {})), ran={}, path=Path(), **more)
