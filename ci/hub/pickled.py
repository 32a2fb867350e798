"""Repositories with `pytorch_model*.bin` only: whole files, loaded weights-only, written as the same checkpoint.

The one module of this room that needs torch, and only when it is used. `weights_only=True` restricts unpickling to
tensors; `mmap=True` leaves the bytes in the file until they are written.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from typing import TYPE_CHECKING, Any

from ci.errors import InfrastructureError
from ci.hub.header import Tensor
from ci.hub.transfer import Digests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ci.hub.ranges import OutputFile

DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip
"""safetensors' names for torch's dtypes."""
BLOCK = 4 * 1024**2


class PickledFiles:
    """Downloaded `.bin` files, by their name upstream. `tensors` maps a file to what is in it."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._states = {name: _load(path, name) for name, path in paths.items()}

    def tensors(self) -> dict[str, tuple[str, Tensor]]:
        """Each tensor's name to its file and its dtype and shape. Its begin and end count bytes as if back to back."""
        found: dict[str, tuple[str, Tensor]] = {}
        for file, state in self._states.items():
            at = 0
            for name, value in state.items():
                size = value.numel() * value.element_size()
                found[name] = (file, Tensor(name, _dtype(value, file, name), tuple(value.shape), at, at + size))
                at += size
        return found

    def write(
        self, outputs: Sequence[OutputFile], directory: Path, tick: Callable[[int, int], None]
    ) -> dict[str, Digests]:
        """Write the outputs, a block at a time, hashing on the way; `tick(done, total)`, in bytes, after each file."""
        done, total, digests = 0, sum(output.size for output in outputs), {}
        for output in outputs:
            digests[output.name] = self._write(output, directory / output.name)
            done += output.size
            tick(done, total)
        return digests

    def _write(self, output: OutputFile, path: Path) -> Digests:
        whole, tensors = hashlib.sha256(output.header), {}
        with path.open("wb") as file:
            file.write(output.header)
            for placed in output.tensors:
                own = hashlib.sha256()
                for block in _blocks(self._states[placed.source.shard][placed.source.tensor.name]):
                    file.write(block)
                    own.update(block)
                    whole.update(block)
                tensors[placed.source.tensor.name] = own.hexdigest()
            file.flush()
            os.fsync(file.fileno())
        return Digests(whole.hexdigest(), tensors)


def _load(path: Path, name: str) -> dict[str, Any]:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what such a file may be; whether it loads is what counts
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as problem:
        reason = str(problem).splitlines()[0][:200] if str(problem) else type(problem).__name__
        raise InfrastructureError(f"{name}: cannot be loaded as weights alone: {reason}") from None
    if not isinstance(state, dict) or not all(_is_tensor(key, value) for key, value in state.items()):
        raise InfrastructureError(f"{name}: holds something other than named tensors; refused")
    return dict(state)


def _is_zip(path: Path) -> bool:
    """Files from before torch 1.6 are no zip archives and cannot be mapped."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_tensor(key: object, value: object) -> bool:
    import torch

    return isinstance(key, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided


def _dtype(value: Any, file: str, name: str) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise InfrastructureError(f"{file}: tensor {name[:200]!r} has dtype {dtype}, which safetensors does not know")
    return DTYPES[dtype]


def _blocks(value: Any) -> Iterator[memoryview]:
    """A tensor's bytes in row-major order."""
    import torch

    flat = value.detach().contiguous().flatten().view(torch.uint8)
    for start in range(0, flat.numel(), BLOCK):
        yield memoryview(flat[start : start + BLOCK].numpy())
