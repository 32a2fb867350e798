"""A Fast-LLM parameter, and the Hugging Face tensors that it is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A Hugging Face tensor in a Fast-LLM parameter; `transposed`: the parameter holds its matrices' transposes.

    Matrices of a tensor with three dimensions are `stacked` by rows, or else the tensor is kept as it is. Of four
    dimensions, as a convolution over pixels has, the last three are one.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool = False
    stacked: bool = True

    @property
    def matrices(self) -> int:
        """How many matrices it stacks: the experts of a tensor with three dimensions."""
        return self.shape[0] if len(self.shape) == 3 and self.stacked else 1

    @property
    def rows(self) -> int:
        """The number of the parameter's rows that it fills."""
        if not self.stacked or len(self.shape) == 4:
            return self.shape[0]
        rows = self.shape[-1] if self.transposed else self.shape[-2] if len(self.shape) > 1 else self.shape[0]
        return self.matrices * rows

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one of the parameter's rows."""
        if len(self.shape) == 4:
            return (math.prod(self.shape[1:]),)
        if not self.stacked or len(self.shape) == 1:
            return self.shape[1:]
        return self.shape[-2:-1] if self.transposed else self.shape[-1:]


@dataclass(frozen=True)
class Parameter:
    """A Fast-LLM parameter and its parts in order."""

    name: str
    parts: tuple[Part, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in Fast-LLM."""
        return (sum(part.rows for part in self.parts), *self.parts[0].row_shape)
