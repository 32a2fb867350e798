"""A trace whose rows run one after the other: each is written straight to its place in the batch's files.

A scope's file is laid out in full by its first row, with zeros, which is what positions of padding hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ci.errors import InfrastructureError
from ci.hub.header import TensorInfo as Entry
from ci.hub.header import write_header
from ci.subjects.base import TraceResult
from ci.subjects.tracefile import TraceWriter, check_scope

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from torch import Tensor

STORED = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
}


@dataclass
class BatchWriter(TraceWriter):
    """The trace of `batch` rows of `length` tokens; `row` gives each row its writer, and `finish` ends them all."""

    batch: int = field(kw_only=True)
    length: int = field(kw_only=True)
    _places: dict[str, int] = field(default_factory=dict, init=False)

    def row(self, index: int, padding: int) -> RowWriter:
        """The writer of row `index`, whose first `padding` positions hold no token."""
        return RowWriter(self, index, padding)

    def place(self, scope: str, tensors: Mapping[str, Tensor], row: int, padding: int) -> None:
        """Put the tensors (1, length - padding, …) of one row where they belong in (batch, length, …)."""
        check_scope(scope, tensors)
        target = self.path / f"{scope}.safetensors"
        try:
            if scope not in self._names:
                self._lay_out(target, tensors)
                self._names[scope] = tuple(tensors)
            with target.open("r+b") as file:
                for name, tensor in tensors.items():
                    token = math.prod(tensor.shape[2:]) * tensor.itemsize
                    file.seek(self._places[name] + (row * self.length + padding) * token)
                    file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        except OSError as problem:
            raise InfrastructureError(f"{target} cannot be written: {problem.strerror}") from None

    def _lay_out(self, target: Path, tensors: Mapping[str, Tensor]) -> None:
        entries, at = [], 0
        for name, tensor in tensors.items():
            shape = (self.batch, self.length, *tensor.shape[2:])
            size = math.prod(shape) * tensor.itemsize
            entries.append(Entry(name, STORED[tensor.dtype], shape, at, at + size))
            at += size
        header = write_header(entries, {})
        with target.open("wb") as file:
            file.write(header)
            file.truncate(len(header) + at)
        self._places |= {entry.name: len(header) + entry.begin for entry in entries}


@dataclass(frozen=True)
class RowWriter:
    """What a forward of one row writes to; it answers what ran and leaves the trace to be finished by the batch."""

    whole: BatchWriter
    index: int
    padding: int

    def scope(self, scope: str, tensors: Mapping[str, Tensor]) -> None:
        """One finished scope of this row."""
        self.whole.place(scope, tensors, self.index, self.padding)

    def finish(self, **said: Any) -> TraceResult:
        """What is known about this row's forward."""
        names = self.whole.scopes
        return TraceResult(scopes=tuple(names), names=names, **said)
