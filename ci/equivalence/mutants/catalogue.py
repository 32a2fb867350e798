"""The planted bugs: each stands for conversion or kernel bugs that real projects have shipped.

Classes follow public issue threads: RoPE layout, lost biases, swapped norms, expert order, window off by one, …
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.equivalence.mutants.kernels import CASTS, KERNELS
from ci.equivalence.mutants.keys import KEYS
from ci.equivalence.mutants.tensors import TENSORS

if TYPE_CHECKING:
    from ci.equivalence.mutants.plant import Mutation


def catalogue() -> tuple[Mutation, ...]:
    """Every mutation, conversion first."""
    return (*TENSORS, *KEYS, *KERNELS, *CASTS)
