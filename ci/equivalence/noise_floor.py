"""How much two right answers differ: the noise floor of each tensor, measured over Hugging Face's own variants."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ci.equivalence.tolerances import MAX_REFERENCE_NOISE, NoiseFloor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.equivalence.trace_compare import TraceDiff
    from ci.subjects.base import DType, Variant


def measure_floors(diffs: Iterable[TraceDiff]) -> dict[str, NoiseFloor]:
    """Return the floor of each tensor: the largest error among the legitimate variants."""
    floors: dict[str, NoiseFloor] = {}
    for diff in diffs:
        for name, tensor in diff.tensors.items():
            floor = floors.get(name, NoiseFloor())
            floors[name] = NoiseFloor(max(floor.error, tensor.error), max(floor.token_error, tensor.token_error))
    return floors


def explain_untrusted(diffs: Iterable[TraceDiff], dtype: DType) -> str:
    """Say why floors give no verdict; empty where they do.

    They give none where a variant is not finite, or in float32 is far from the expected trace.
    """
    for diff in diffs:
        if diff.problems:
            return f"inconclusive: Hugging Face's own {dtype} answer cannot be compared: {diff.problems[0].message}"
        for name, tensor in diff.tensors.items():
            if not math.isfinite(tensor.error) or (dtype == "float32" and tensor.error > MAX_REFERENCE_NOISE):
                return f"inconclusive: Hugging Face's own {dtype} variants differ by {tensor.error:.2g} in {name}"
    return ""


def combine_variants(offered: Iterable[Variant]) -> tuple[dict[str, str], ...]:
    """Return the fewest combinations of Hugging Face variants that run every implementation once.

    Each is a forward pass to pay for, and one pass can hold noise of several origins: combination i takes the i-th
    implementation of every axis.
    """
    axes: dict[str, list[str]] = {}
    for variant in offered:
        axes.setdefault(variant.axis, []).append(variant.name)
    count = max((len(names) for names in axes.values()), default=1)
    return tuple({axis: names[min(i, len(names) - 1)] for axis, names in axes.items()} for i in range(count))
