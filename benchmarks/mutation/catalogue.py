"""The catalogue of bugs: each stands for conversion or kernel bugs that real projects have shipped.

Classes follow public issue threads: RoPE layout, lost biases, swapped norms, expert order, window off by one, …
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutation.config_mutations import KEYS
from benchmarks.mutation.deep_mutations import DEEP
from benchmarks.mutation.field_mutations import FIELD
from benchmarks.mutation.kernel_mutations import CASTS, KERNELS
from benchmarks.mutation.tensor_mutations import TENSORS

if TYPE_CHECKING:
    from benchmarks.mutation.deep_mutations import DeepBug
    from benchmarks.mutation.injection import Mutation


def catalogue() -> tuple[Mutation, ...]:
    """Return every mutation that the default tests must catch, those of the conversion first."""
    return (*TENSORS, *KEYS, *KERNELS, *CASTS, *FIELD)


def deep_catalogue() -> tuple[DeepBug, ...]:
    """Return the bugs that only `--deep` can catch, each with its check."""
    return DEEP
