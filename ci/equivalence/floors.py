"""How much two right answers differ: the noise floor of each tensor, and the limits that follow from it.

Gate A (correctness, float32): error <= GATE_A x max(floor, MIN_FLOOR) x compare_factor, where the floor is the largest
error of legitimate Hugging Face variants against the float64 oracle. Planted bugs that change anything sit above
20 floors, right implementations near 1, so that one constant serves every model.

Gate B (the deployment dtype): error <= GATE_B x max(Hugging Face's own error in that dtype, one rounding) x
compare_factor: FlashAttention's rule, at the level of a model
(https://github.com/Dao-AILab/flash-attention/blob/main/tests/test_flash_attn.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.equivalence.walk import TOP_EXPERTS
from ci.subjects.base import DType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.equivalence.walk import Walked
    from ci.subjects.base import Variant

GATE_A = 10.0
GATE_B = 2.0
MIN_FLOOR: dict[str, float] = {"float64": 6e-17, "float32": 3e-8, "float16": 2.0**-12, "bfloat16": 2.0**-9}
"""Half a unit roundoff: what one rounding of random values to the dtype amounts to, relative L2."""


TRUSTED = 1e-3
"""Where Hugging Face's own float32 variants disagree by more than this, they are not all right: no verdict then."""


@dataclass(frozen=True)
class Floor:
    """The reference's own noise in one tensor: relative L2 and that of the worst token."""

    error: float = 0.0
    token_error: float = 0.0


@dataclass(frozen=True)
class Limits:
    """The largest errors that pass, for every tensor of one case in one dtype.

    `untrusted` says why no verdict can stand on these floors, where none can: Hugging Face disagrees with itself.
    """

    dtype: DType
    floors: Mapping[str, Floor]
    compare_factor: float = 1.0
    untrusted: str = ""

    def floor(self, name: str) -> Floor:
        """The floor of a tensor, at least one rounding of the dtype."""
        found, least = self.floors.get(name, Floor()), MIN_FLOOR[self.dtype]
        return Floor(max(found.error, least), max(found.token_error, least))

    @property
    def factor(self) -> float:
        """How many floors pass: the gate's constant, scaled by the registry's compare_factor."""
        return (GATE_A if self.dtype in ("float32", "float64") else GATE_B) * self.compare_factor

    def error(self, name: str) -> float:
        """The largest relative L2 error that passes."""
        return self.factor * self.floor(name).error

    def token_error(self, name: str) -> float:
        """The largest error of a single token that passes."""
        return self.factor * TOKEN_SLACK[self.dtype] * self.floor(name).token_error

    def gap(self, name: str) -> float:
        """The largest gap, in norms of router logits, over which rounding may flip a choice of experts."""
        return 2 * self.token_error(name.replace(TOP_EXPERTS, "mlp.router_logits"))


TOKEN_SLACK: dict[str, float] = {"float64": 1.0, "float32": 1.0, "float16": 2.0, "bfloat16": 2.0}
"""A maximum over tokens scatters more than a mean, which Gate B's tight constant has no room for."""


def floors(walks: Iterable[Walked]) -> dict[str, Floor]:
    """The floor of each tensor: the largest error among the legitimate variants."""
    found: dict[str, Floor] = {}
    for walk in walks:
        for name, difference in walk.differences.items():
            known = found.get(name, Floor())
            found[name] = Floor(max(known.error, difference.error), max(known.token_error, difference.token_error))
    return found


def untrusted(walks: Iterable[Walked], dtype: DType) -> str:
    """Why the floors are none: a legitimate variant is not finite, or in float32 far from the oracle; else empty."""
    for walk in walks:
        if walk.problems:
            return f"Hugging Face's own {dtype} answer is no yardstick: {walk.problems[0].message}"
        for name, found in walk.differences.items():
            if not math.isfinite(found.error) or (dtype == "float32" and found.error > TRUSTED):
                return f"Hugging Face's own {dtype} variants differ by {found.error:.2g} in {name}: no yardstick"
    return ""


def noise_variants(offered: Iterable[Variant]) -> tuple[dict[str, str], ...]:
    """The fewest Hugging Face variants that together exercise every offered implementation once.

    Each is a forward pass to pay for, and noises of different origin do not need different passes: variant i takes the
    i-th implementation of every axis.
    """
    axes: dict[str, list[str]] = {}
    for variant in offered:
        axes.setdefault(variant.axis, []).append(variant.name)
    count = max((len(names) for names in axes.values()), default=1)
    return tuple({axis: names[min(i, len(names) - 1)] for axis, names in axes.items()} for i in range(count))
