"""Shared by every traced forward pass: inputs, exact arithmetic, recording scope by scope, teacher forcing, cost."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ci.errors import RequestError, SubjectError
from ci.subjects.images import Images, find_image_problem, take_images
from ci.subjects.trace_files import TraceReader
from ci.tensor_names import EMBEDDINGS, block_name, is_block_output, scope_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci.subjects.base import DType, TraceRequest

DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Inputs:
    """Token ids int64 (B, T) and, where rows are left padded, a mask int64 (B, T) of 0 and 1; images, if any."""

    ids: Tensor
    mask: Tensor | None = None
    images: Images | None = None

    def position_ids(self) -> Tensor | None:
        """Return positions that start at 0 on each row's first real token, None without a mask."""
        return None if self.mask is None else (self.mask.cumsum(-1) - 1).clamp(min=0)

    def count_padding(self, row: int) -> int:
        """Return the number of padding tokens at the start of a row."""
        return 0 if self.mask is None else int((self.mask[row] == 0).sum())

    def select_row(self, row: int) -> Inputs:
        """Return one row alone, without its padding: ids (1, T - padding)."""
        images = self.images.select_row(row) if self.images else None
        return Inputs(self.ids[row : row + 1, self.count_padding(row) :], images=images)

    def check_vocabulary(self, size: int) -> None:
        """Raise RequestError for an id that is not below `size`.

        On a GPU the model itself would end the whole process.
        """
        if (highest := int(self.ids.max())) >= size:
            raise RequestError(f"input_ids contain {highest}, but the model's vocabulary ends at {size - 1}")

    def to(self, device: str) -> Inputs:
        """Return the same inputs on a device."""
        mask = None if self.mask is None else self.mask.to(device)
        images = None if self.images is None else self.images.to(device)
        return Inputs(self.ids.to(device), mask, images)


def read_inputs(path: Path) -> Inputs:
    """Read and check the inputs file of a TraceRequest. Raises RequestError.

    A mask of ones becomes no mask.
    """
    try:
        # By numpy: safetensors asks torch for float32, which means float64 in `hugging_face.float64_mode`.
        with safe_open(path, framework="numpy") as file:
            tensors = {name: torch.from_numpy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise RequestError(f"inputs {path} cannot be read: {problem}") from None
    ids, mask = tensors.pop("input_ids", None), tensors.pop("attention_mask", None)
    images = take_images(tensors)
    wrong = _find_problem(ids, mask)
    if images is not None and ids is not None:
        wrong = wrong or find_image_problem(images, len(ids))
    if wrong := wrong or (f"unknown tensors {sorted(tensors)}" if tensors else None):
        raise RequestError(f"inputs {path}: {wrong}")
    assert ids is not None  # noqa: S101 (narrowing only)
    return Inputs(ids, None if mask is None or bool(mask.all()) else mask, images)


def _find_problem(ids: Tensor | None, mask: Tensor | None) -> str | None:
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
        return "attention_mask must be 0 then 1 in each row (left padding), with at least one real token"
    return None


class ScopeWriter(Protocol):
    """Writes recorded tensors scope by scope."""

    def write_scope(self, scope: str, tensors: Mapping[str, Tensor]) -> None:
        """Write one finished scope."""
        ...


@dataclass
class TraceRecorder:
    """Records the tensors of a forward pass, and writes each scope to the trace when it is finished.

    It never holds more than one layer's tensors. They are copied, because the code under test may change them in place
    later. At positions of padding a trace holds zeros: what a model computes there has no meaning. `seconds` is the
    time spent on recording, which does not count as the forward pass's.
    """

    writer: ScopeWriter
    inputs: Inputs
    dtype: torch.dtype
    seconds: float = 0.0
    written: list[str] = field(default_factory=list)
    _tensors: dict[str, Tensor] = field(default_factory=dict)

    def record(self, name: str, tensor: Tensor, *, copy: bool = True) -> None:
        """Keep a tensor in the trace's dtype (integers as int64).

        It is (B, T, …) or flattened (B * T, …).
        Without `copy` the caller promises that nothing reads or changes the tensor later. Raises SubjectError for a
        block output in another dtype than the requested one: a cast here would hide that.
        """
        started = time.perf_counter()
        if tensor.is_floating_point() and tensor.dtype != self.dtype and is_block_output(name):
            raise SubjectError(f"{name} was computed in {tensor.dtype}, not in {self.dtype}".replace("torch.", ""))
        batch, length = self.inputs.ids.shape
        if tensor.shape[:2] != (batch, length):
            tensor = tensor.reshape(batch, length, *tensor.shape[1:])
        dtype = self.dtype if tensor.is_floating_point() else torch.int64
        kept = tensor.detach().to(dtype, copy=copy)
        if self.inputs.mask is not None:
            kept[self.inputs.mask.to(kept.device) == 0] = 0
        self._tensors[name] = kept
        self.seconds += time.perf_counter() - started

    def flush(self) -> None:
        """Write the recorded tensors as one scope's file and forget them."""
        started = time.perf_counter()
        self.writer.write_scope(scope_of(next(iter(self._tensors))), self._tensors)
        self.written += self._tensors
        self._tensors = {}
        self.seconds += time.perf_counter() - started


@dataclass(frozen=True)
class TeacherForcing:
    """Block inputs from another trace, read when they are needed; optionally those of one row."""

    trace: TraceReader
    dtype: torch.dtype
    device: str
    row: int | None = None
    padding: int = 0

    @classmethod
    def of_request(cls, request: TraceRequest) -> TeacherForcing | None:
        """Return the teacher forcing that a request asks for, None where it asks for none."""
        if request.feed is None:
            return None
        return cls(TraceReader(Path(request.feed)), DTYPES[request.dtype], request.device)

    def read_block_input(self, block: int) -> Tensor:
        """Return the input (B, T, hidden) of block `block`.

        The number of blocks stands for the head.
        """
        return self._read(block_name(block - 1) if block else EMBEDDINGS)

    def read_image_output(self, name: str, tokens: Tensor) -> Tensor | None:
        """Return the patches (patches, …) of a vision tower's scope, at the image tokens `tokens`, bool (B, T).

        None where the other trace lacks the scope.
        """
        return self._read(name)[tokens] if self.trace.has_file(name) else None

    def _read(self, name: str) -> Tensor:
        tensor = self.trace.tensor(name)
        if self.row is not None:
            tensor = tensor[self.row : self.row + 1, self.padding :]
        return tensor.to(self.device, self.dtype)

    def select_row(self, row: int, padding: int) -> TeacherForcing:
        """Return the same for one row of the batch alone, without its padding."""
        return replace(self, row=row, padding=padding)


def sort_by_score(experts: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Sort expert ids and their scores (N, k) by score, highest first; ties keep their order."""
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    return experts.gather(-1, order), scores


@dataclass
class Cost:
    """Seconds of wall time and, on CUDA, the peak of allocated bytes; filled in at the end of the measured block."""

    seconds: float = 0.0
    peak_device_bytes: int = 0


@contextmanager
def measure_cost(device: str) -> Iterator[Cost]:
    """Measure the cost of a block of work on `device`.

    Waits for the device at both ends.
    """
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
    """Switch TF32 and reduced-precision reductions off for the length of the context, in Triton too.

    https://docs.pytorch.org/docs/stable/notes/numerical_accuracy.html
    Triton's `tl.dot` multiplies float32 in TF32 by default, and reads the environment when it compiles:
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
        with _set_environment(TRITON_F32_DEFAULT="ieee"):
            yield
    finally:
        _set_arithmetic(*before)


@contextmanager
def _set_environment(**variables: str) -> Iterator[None]:
    """Set variables for the length of the context.

    For a library that reads them after its import.
    """
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
