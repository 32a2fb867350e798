"""What every traced forward pass shares: its inputs, exact arithmetic, and captures held one scope at a time."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ci.errors import RequestError, SubjectError
from ci.subjects.tracefile import TraceReader, scope_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ci.subjects.base import DType

DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Inputs:
    """Token ids int64 (B, T) and, where rows are left padded, a mask int64 (B, T) of 0 and 1."""

    ids: Tensor
    mask: Tensor | None = None

    def position_ids(self) -> Tensor | None:
        """Positions that start at 0 on each row's first real token; None without a mask."""
        return None if self.mask is None else (self.mask.cumsum(-1) - 1).clamp(min=0)

    def padding(self, row: int) -> int:
        """How many tokens of padding a row starts with."""
        return 0 if self.mask is None else int((self.mask[row] == 0).sum())

    def row(self, row: int) -> Inputs:
        """One row alone, without its padding: ids (1, T - padding)."""
        return Inputs(self.ids[row : row + 1, self.padding(row) :])

    def to(self, device: str) -> Inputs:
        """The same inputs on a device."""
        return Inputs(self.ids.to(device), None if self.mask is None else self.mask.to(device))


def read_inputs(path: Path) -> Inputs:
    """Read and check the inputs file of a TraceRequest; a mask of ones is no mask. Raises RequestError."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as problem:
        raise RequestError(f"inputs {path} cannot be read: {problem}") from None
    ids, mask = found.pop("input_ids", None), found.pop("attention_mask", None)
    if problem_found := _problem(ids, mask) or (f"unknown tensors {sorted(found)}" if found else None):
        raise RequestError(f"inputs {path}: {problem_found}")
    assert ids is not None  # noqa: S101 (narrowing only)
    return Inputs(ids, None if mask is None or bool(mask.all()) else mask)


def _problem(ids: Tensor | None, mask: Tensor | None) -> str | None:
    if ids is None or ids.dtype != torch.int64 or ids.ndim != 2 or not ids.numel() or int(ids.min()) < 0:
        return "input_ids must be int64 (batch, sequence), not empty, not negative"
    if mask is None:
        return None
    if mask.dtype != torch.int64 or mask.shape != ids.shape:
        return "attention_mask must be int64 and of the shape of input_ids"
    if (
        not bool(((mask == 0) | (mask == 1)).all())
        or bool((mask.diff(dim=-1) < 0).any())
        or not bool(mask[:, -1].all())
    ):
        return "attention_mask must be 0 then 1 in each row (left padding), with one real token at least"
    return None


class ScopeSink(Protocol):
    """Where captures go, scope by scope."""

    def scope(self, scope: str, tensors: Mapping[str, Tensor]) -> None:
        """Take one finished scope."""
        ...


@dataclass
class Recorder:
    """Holds the captures of one scope and flushes them to the trace: never more than one layer's tensors at a time.

    Tensors are copied when put, because the code under test may go on to change them in place. Positions of padding
    hold zeros in the trace: what a model computes there has no meaning. `seconds` is the time spent on recording,
    which is not the forward's.
    """

    writer: ScopeSink
    inputs: Inputs
    dtype: torch.dtype
    seconds: float = 0.0
    written: list[str] = field(default_factory=list)
    _held: dict[str, Tensor] = field(default_factory=dict)

    def put(self, name: str, tensor: Tensor, *, ours: bool = False) -> None:
        """Keep a copy of `tensor`, (B, T, …) or flattened (B * T, …), in the trace's dtype (integers as int64).

        With `ours` nobody else will read or change it any more, so that it is kept itself. Raises SubjectError for a
        block that answers in another dtype than the one asked for: cast here, it would look as if it had been right.
        """
        started = time.perf_counter()
        if tensor.is_floating_point() and tensor.dtype != self.dtype and scope_of(name) == name != "embeddings":
            raise SubjectError(f"{name} was computed in {tensor.dtype}, not in {self.dtype}".replace("torch.", ""))
        batch, length = self.inputs.ids.shape
        if tensor.shape[:2] != (batch, length):
            tensor = tensor.reshape(batch, length, *tensor.shape[1:])
        dtype = self.dtype if tensor.is_floating_point() else torch.int64
        copy = tensor.detach().to(dtype, copy=not ours)
        if self.inputs.mask is not None:
            copy[self.inputs.mask.to(copy.device) == 0] = 0
        self._held[name] = copy
        self.seconds += time.perf_counter() - started

    def flush(self) -> None:
        """Write what is held as one scope's file and let it go."""
        started = time.perf_counter()
        self.writer.scope(scope_of(next(iter(self._held))), self._held)
        self.written += self._held
        self._held = {}
        self.seconds += time.perf_counter() - started


@dataclass(frozen=True)
class Feed:
    """Teacher forcing: what goes into block i, read from another trace when it is needed; optionally of one row."""

    trace: TraceReader
    dtype: torch.dtype
    device: str
    row: int | None = None
    padding: int = 0

    def into(self, block: int) -> Tensor:
        """(B, T, hidden) that replaces the input of block `block` (of the head, when it is the number of blocks)."""
        tensor = self.trace.tensor(f"decoder.{block - 1}" if block else "embeddings")
        if self.row is not None:
            tensor = tensor[self.row : self.row + 1, self.padding :]
        return tensor.to(self.device, self.dtype)

    def of_row(self, row: int, padding: int) -> Feed:
        """The same for one row of the batch alone, without its padding."""
        return replace(self, row=row, padding=padding)


def by_score(experts: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """A routing (N, k) of expert ids and their scores, sorted by score, highest first; ties keep their order."""
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    return experts.gather(-1, order), scores


@dataclass
class Cost:
    """Seconds of wall time and, on CUDA, the peak of bytes allocated; filled when the measured block has ended."""

    seconds: float = 0.0
    peak_device_bytes: int = 0


@contextmanager
def measured(device: str) -> Iterator[Cost]:
    """Measure a block of work on `device`, waiting for the device at both ends."""
    cost, cuda = Cost(), device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    try:
        yield cost
    finally:
        if cuda:
            torch.cuda.synchronize(device)
            cost.peak_device_bytes = torch.cuda.max_memory_allocated(device)
        cost.seconds = time.perf_counter() - started


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """No TF32 and no reduced-precision reductions: float32 has to mean float32 everywhere, in Triton too.

    https://docs.pytorch.org/docs/stable/notes/numerical_accuracy.html
    Triton's `tl.dot` multiplies float32 in TF32 unless told otherwise, and asks its environment when it compiles:
    https://triton-lang.org/main/python-api/generated/triton.language.dot.html
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (
        torch.get_float32_matmul_precision(),
        matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_reduced_precision_reduction,
        cudnn.allow_tf32,
    )
    _set_arithmetic("highest", False, False, False)
    try:
        with _environment(TRITON_F32_DEFAULT="ieee"):
            yield
    finally:
        _set_arithmetic(*before)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables that a library reads later than at its import, for the length of the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _set_arithmetic(precision: str, bf16: bool, fp16: bool, cudnn_tf32: bool) -> None:
    torch.set_float32_matmul_precision(precision)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = bf16
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = fp16
    torch.backends.cudnn.allow_tf32 = cudnn_tf32
