"""The planted bugs: each stands for conversion or kernel bugs that real projects have shipped.

Classes follow public issue threads: RoPE layout, lost biases, swapped norms, expert order, window off by one, …
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutation.kernels import CASTS, KERNELS
from benchmarks.mutation.keys import KEYS
from benchmarks.mutation.tensors import TENSORS

if TYPE_CHECKING:
    from benchmarks.mutation.injection import Mutation


def catalogue() -> tuple[Mutation, ...]:
    """Every mutation, conversion first."""
    return (*TENSORS, *KEYS, *KERNELS, *CASTS)
