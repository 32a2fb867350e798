"""The catalogue of bugs: each stands for conversion or kernel bugs that real projects have shipped.

Classes follow public issue threads: RoPE layout, lost biases, swapped norms, expert order, window off by one, …
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutation.config_mutations import KEYS
from benchmarks.mutation.kernel_mutations import CASTS, KERNELS
from benchmarks.mutation.tensor_mutations import TENSORS

if TYPE_CHECKING:
    from benchmarks.mutation.injection import Mutation


def catalogue() -> tuple[Mutation, ...]:
    """Return every mutation, those of the conversion first."""
    return (*TENSORS, *KEYS, *KERNELS, *CASTS)
