"""Writes the trace of a batch from rows that run one after the other: each row goes to its place in the files.

The first row of a scope writes the whole file with zeros, the value that a trace holds at positions of padding.
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
from ci.subjects.trace_files import TraceWriter, check_scope
from ci.tensor_names import execution_order

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
class BatchTraceWriter(TraceWriter):
    """The trace of `batch` rows of `length` tokens. Each row has its own writer; `finish` ends the trace."""

    batch: int = field(kw_only=True)
    length: int = field(kw_only=True)
    _offsets: dict[str, int] = field(default_factory=dict, init=False)

    def row_writer(self, index: int, padding: int) -> RowTraceWriter:
        """Return the writer of row `index`; its first `padding` positions hold no token."""
        return RowTraceWriter(self, index, padding)

    def finish(self, **fields: Any) -> TraceResult:
        """Write `trace.json`; a scope that the first row lacks, as one of images, is put where it is computed."""
        self._names = {scope: self._names[scope] for scope in sorted(self._names, key=execution_order)}
        return super().finish(**fields)

    def write_row(self, scope: str, tensors: Mapping[str, Tensor], row: int, padding: int) -> None:
        """Write one row's tensors (1, length - padding, …) into the files of (batch, length, …)."""
        check_scope(scope, tensors)
        target = self.path / f"{scope}.safetensors"
        try:
            if scope not in self._names:
                self._write_zeros(target, tensors)
                self._names[scope] = tuple(tensors)
            with target.open("r+b") as file:
                for name, tensor in tensors.items():
                    token = math.prod(tensor.shape[2:]) * tensor.itemsize
                    file.seek(self._offsets[name] + (row * self.length + padding) * token)
                    file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        except OSError as problem:
            raise InfrastructureError(f"{target} cannot be written: {problem.strerror}") from None

    def _write_zeros(self, target: Path, tensors: Mapping[str, Tensor]) -> None:
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
        self._offsets |= {entry.name: len(header) + entry.begin for entry in entries}


@dataclass(frozen=True)
class RowTraceWriter:
    """The writer of one row's forward pass; the batch's writer finishes the trace."""

    batch: BatchTraceWriter
    index: int
    padding: int

    def write_scope(self, scope: str, tensors: Mapping[str, Tensor]) -> None:
        """Write one finished scope of this row."""
        self.batch.write_row(scope, tensors, self.index, self.padding)

    def finish(self, **fields: Any) -> TraceResult:
        """Return this row's part of the result; `fields` are those of TraceResult."""
        names = self.batch.scopes
        return TraceResult(scopes=tuple(names), names=names, **fields)
