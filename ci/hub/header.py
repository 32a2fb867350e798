"""Parse, check and write the safetensors header. Pure; no tensor library is involved.

A file is `u64 little-endian N`, N bytes of JSON padded with spaces, then the tensors' bytes without holes
(https://github.com/huggingface/safetensors#format). A header from the network is not trusted: everything that
safetensors' own `SafeTensors::deserialize` checks is checked here before any byte of a tensor is requested.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ci.errors import InfrastructureError
from ci.hub.strict_json import parse_object

MAX_HEADER = 25_000_000
"""Bytes of JSON accepted; huggingface_hub's own cap (safetensors' is 100 MB)."""

DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element, by safetensors' dtype names."""


@dataclass(frozen=True)
class TensorInfo:
    """Name, dtype, shape and position of a tensor: bytes [begin, end) of the data after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """A file's tensors in the order of their bytes. `data_start` is the file offset of the first one.

    `content` are the header's own bytes, up to `data_start`.
    """

    data_start: int
    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    content: bytes = field(default=b"", repr=False, compare=False)


def find_header_end(first_bytes: bytes, file_size: int, *, what: str) -> int:
    """Return the file offset where the header ends, from the file's first 8 bytes (or more).

    Raises InfrastructureError when no header of a file of `file_size` bytes can be that long.
    """
    if len(first_bytes) < 8 or file_size < 8:
        raise InfrastructureError(f"{what}: {file_size} bytes are too few for a safetensors file")
    length = int.from_bytes(first_bytes[:8], "little")
    if length > MAX_HEADER:
        raise InfrastructureError(f"{what}: a safetensors header of {length} bytes is over the limit of {MAX_HEADER}")
    if 8 + length > file_size:
        raise InfrastructureError(f"{what}: the file is cut short: a header of {length} bytes in a file of {file_size}")
    return 8 + length


def parse_header(data: bytes, file_size: int, *, what: str) -> Header:
    """Parse the header at the start of `data` and check it against the file's size.

    `data` holds at least the whole header. Raises InfrastructureError naming `what` and the tensor that is wrong.
    """
    end = find_header_end(data, file_size, what=what)
    if data[8:9] != b"{":
        raise InfrastructureError(f"{what}: not a safetensors file: the header does not start with '{{'")
    entries = parse_object(data[8:end], what=f"{what}: header")
    metadata = _check_metadata(entries.pop("__metadata__", {}), what)
    tensors = sorted(
        (_parse_tensor(name, entry, what) for name, entry in entries.items()), key=lambda t: (t.begin, t.end)
    )
    _check_contiguous(tensors, file_size - end, what)
    return Header(end, tuple(tensors), metadata, bytes(data[:end]))


def write_header(tensors: Iterable[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Return length and JSON of a header, padded with spaces to a multiple of 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [tensor.begin, tensor.end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def count_tensor_bytes(dtype: str, shape: Iterable[int]) -> int | None:
    """Return the bytes of a tensor; None when its bits do not fill whole bytes."""
    bits = DTYPE_BITS[dtype] * math.prod(shape)
    return None if bits % 8 else bits // 8


def _check_metadata(value: Any, what: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InfrastructureError(f"{what}: header: __metadata__ must map text to text")
    return value


def _parse_tensor(name: str, entry: Any, what: str) -> TensorInfo:
    where = f"{what}: tensor {name[:200]!r}"
    if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
        raise InfrastructureError(f"{where}: needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise InfrastructureError(f"{where}: unknown dtype {str(dtype)[:50]!r}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise InfrastructureError(f"{where}: shape and data_offsets must be lists of counts (whole numbers from 0)")
    if count_tensor_bytes(dtype, shape) != offsets[1] - offsets[0]:
        raise InfrastructureError(f"{where}: {dtype} {shape} does not fill bytes {offsets[0]} to {offsets[1]}"[:500])
    return TensorInfo(name, dtype, tuple(shape), offsets[0], offsets[1])


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 64 and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _check_contiguous(tensors: list[TensorInfo], data_size: int, what: str) -> None:
    expected = 0
    for tensor in tensors:
        if tensor.begin != expected:
            raise InfrastructureError(
                f"{what}: tensor {tensor.name[:200]!r} starts at {tensor.begin}, expected {expected}"
            )
        expected = tensor.end
    if expected != data_size:
        raise InfrastructureError(f"{what}: tensors fill {expected} bytes of data, the file has {data_size}")
