"""Reads safetensors files in blocks of rows, and writes them as a stream."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, Final, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ci.errors import InfrastructureError, RequestError, SubjectError, UnsupportedError
from ci.hub.header import Header, find_header_end, parse_header, write_header
from ci.hub.header import TensorInfo as Entry

if TYPE_CHECKING:
    from collections.abc import Iterator


BLOCK_ELEMENTS: Final = 1 << 22
"""Elements read, cast or written at a time (16 MiB in float32)."""

WRITERS: Final = 8
"""TensorFiles cast and written at a time: one core alone copies too slowly."""

DTYPES: Final = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
SUFFIX: Final = ".safetensors"


@dataclass(frozen=True)
class StoredTensor:
    """The place of a tensor: its file, its entry in the header, and the offset of its first byte."""

    path: Path
    entry: Entry
    offset: int


@dataclass
class TensorFiles:
    """The tensors of some safetensors files, read block by block. Use as a context manager.

    Files are read and not mapped, so that memory is limited to one block whatever their size is. Threads may share it.
    """

    stored: Mapping[str, StoredTensor]
    _files: dict[Path, BinaryIO] = field(default_factory=dict, init=False)
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()
        self._stack.close()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape as stored."""
        return self.stored[name].entry.shape

    def read_blocks(self, name: str, begin: int = 0, end: int | None = None) -> Iterator[Tensor]:
        """Yield rows [begin, end) of a tensor in blocks.

        A block has at most BLOCK_ELEMENTS elements, but at least one row.
        """
        rows, *rest = self.shape(name)
        step = max(1, BLOCK_ELEMENTS // max(1, math.prod(rest)))
        end = rows if end is None else end
        yield from (self.read_rows(name, at, min(at + step, end)) for at in range(begin, end, step))

    def read_rows(self, name: str, begin: int, end: int) -> Tensor:
        """Read rows [begin, end) of a tensor to the CPU.

        Raises SubjectError with the tensor's name for a NaN: Fast-LLM fills what was never written with NaN.
        """
        block = self._read(name, begin, end)
        if block.numel() and block.amax().isnan():
            raise SubjectError(f"{self.stored[name].path}: tensor {name!r} contains NaN")
        return block

    def read_tensor(self, name: str, device: str) -> Tensor:
        """Read a whole tensor directly into the memory of a GPU. Raises as `read_rows` does."""
        stored = self.stored[name]
        try:
            with safe_open(stored.path, framework="pt", device=device) as file:
                tensor: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as problem:
            raise InfrastructureError(f"{stored.path}: tensor {name!r} cannot be read: {problem}") from None
        if tensor.numel() and bool(tensor.amax().isnan()):
            raise SubjectError(f"{stored.path}: tensor {name!r} contains NaN")
        return tensor

    def _read(self, name: str, begin: int, end: int) -> Tensor:
        stored = self.stored[name]
        _, *rest = stored.entry.shape
        block = torch.empty(end - begin, *rest, dtype=DTYPES[stored.entry.dtype])
        try:
            offset = stored.offset + begin * math.prod(rest) * block.itemsize
            complete = _read_into(self._open(stored.path).fileno(), _view_bytes(block), offset) == block.nbytes
        except OSError as problem:
            raise InfrastructureError(f"{stored.path}: tensor {name!r} cannot be read: {problem.strerror}") from None
        if not complete:
            raise InfrastructureError(f"{stored.path}: tensor {name!r} ends too early")
        return block

    def _open(self, path: Path) -> BinaryIO:
        with self._lock:
            if path not in self._files:
                self._files[path] = self._stack.enter_context(path.open("rb"))
            return self._files[path]


def open_tensors(directory: Path, files: Iterable[str]) -> TensorFiles:
    """Open the tensors of `files` in `directory`.

    Raises SubjectError for a path instead of a name, or a tensor in two files.
    """
    stored: dict[str, StoredTensor] = {}
    for name in sorted({*files}):
        if PurePosixPath(name).name != name or not name.endswith(SUFFIX):
            raise SubjectError(f"{directory}: {name!r} is not the name of a {SUFFIX} file beside it")
        path = directory / name
        header = _read_header(path)
        for entry in header.tensors:
            if entry.name in stored:
                raise SubjectError(
                    f"{directory}: tensor {entry.name!r} is in {stored[entry.name].path.name} and {name}"
                )
            stored[entry.name] = StoredTensor(path, entry, header.data_start + entry.begin)
    return TensorFiles(stored)


def _read_header(path: Path) -> Header:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            end = find_header_end(first, size, what=str(path))
            return parse_header(first + file.read(end - 8), size, what=str(path))
    except OSError as problem:
        raise SubjectError(f"{path} cannot be read: {problem.strerror}") from None


def check_tensors(tensors: TensorFiles, expected: Mapping[str, tuple[int, ...]], where: Path) -> None:
    """Check that exactly the expected tensors are there, with their shape and a float dtype.

    Raises SubjectError or UnsupportedError with the first tensor that is not as expected.
    """
    for name in [*expected, *tensors.stored]:
        if name not in tensors.stored:
            raise SubjectError(f"{where}: tensor {name!r} is missing")
        if name not in expected:
            raise SubjectError(f"{where}: tensor {name!r} is unexpected")
        entry = tensors.stored[name].entry
        if entry.shape != expected[name]:
            raise SubjectError(f"{where}: tensor {name!r} has shape {entry.shape}, expected {expected[name]}")
        if entry.dtype not in DTYPES:
            raise UnsupportedError(f"{where}: tensor {name!r}: dtype {entry.dtype} is not implemented by reference")


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to write: `blocks` yields its rows in order, in any float dtype."""

    name: str
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[Tensor]]

    @property
    def elements(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)


def split_files(planned: Iterable[PlannedTensor], limit: int) -> list[list[PlannedTensor]]:
    """Group tensors into files of about `limit` elements.

    The tensor that reaches the limit is the last of its file.
    """
    files: list[list[PlannedTensor]] = [[]]
    for tensor in planned:
        if sum(each.elements for each in files[-1]) >= limit:
            files.append([])
        files[-1].append(tensor)
    return files


def write_tensors(path: Path, planned: Iterable[PlannedTensor], dtype: str) -> int:
    """Write one safetensors file as a stream, header first, and return its size in bytes."""
    planned = list(planned)
    entries, at = [], 0
    for tensor in planned:
        size = tensor.elements * DTYPES[dtype].itemsize
        entries.append(Entry(tensor.name, dtype, tensor.shape, at, at + size))
        at += size
    header = write_header(entries, {"format": "pt"})
    with path.open("wb") as file, ThreadPoolExecutor(WRITERS) as pool:
        file.write(header)
        file.flush()
        writes = [
            pool.submit(_write_tensor, file.fileno(), len(header) + entry.begin, tensor, entry)
            for tensor, entry in zip(planned, entries, strict=True)
        ]
        for done in writes:
            done.result()
        return len(header) + at


def _write_tensor(file: int, at: int, tensor: PlannedTensor, entry: Entry) -> None:
    """Cast one tensor block by block and write it at its offset.

    Several threads write the file.
    """
    begin = at
    for block in tensor.blocks():
        data = _view_bytes(_cast(block, DTYPES[entry.dtype], tensor.name))
        while data:
            written = os.pwrite(file, data, at)
            data, at = data[written:], at + written
    if at - begin != entry.size:
        raise AssertionError(f"{tensor.name}: wrote {at - begin} bytes, planned {entry.size}")


def _read_into(file: int, buffer: memoryview, offset: int) -> int:
    """Read bytes from an offset into the buffer and return their number.

    Several threads read the file.
    """
    done = 0
    while done < len(buffer) and (count := os.preadv(file, [buffer[done:]], offset + done)):
        done += count
    return done


def _cast(block: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    cast = block.to(dtype).contiguous()
    narrower = torch.finfo(dtype).max < torch.finfo(block.dtype).max
    if narrower and cast.numel() and not all(edge.isfinite() for edge in cast.aminmax()) and block.isfinite().all():
        raise UnsupportedError(f"tensor {name!r} has values that {dtype} cannot hold".replace("torch.", ""))
    return cast


def _view_bytes(block: Tensor) -> memoryview:
    return block.flatten().view(torch.uint8).numpy().data


@contextmanager
def create_directory(target: Path) -> Iterator[Path]:
    """Make a directory beside `target` that is renamed to `target` on success and removed otherwise."""
    if target.exists():
        raise RequestError(f"{target} exists; name a directory that does not")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.part-", dir=target.parent))
    except OSError as problem:
        raise InfrastructureError(f"{target} cannot be made: {problem.strerror}") from None
    try:
        yield part
        part.chmod(0o755)
        part.rename(target)
    except OSError as problem:
        raise InfrastructureError(f"{target} cannot be written: {problem.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
