"""Repositories with `pytorch_model*.bin` only: whole files, loaded as tensors alone, written as safetensors.

This module and no other in `ci/hub` imports torch, inside its functions. `weights_only=True` restricts unpickling to
tensors; `mmap=True` leaves the bytes in the file until they are written.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from typing import TYPE_CHECKING, Any

from ci.errors import InfrastructureError
from ci.hub.header import TensorInfo
from ci.hub.transfer import Digests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ci.hub.download_plan import OutputFile

DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip
"""safetensors' dtype names, by torch's."""
BLOCK_SIZE = 4 * 1024**2


class TorchBinFiles:
    """Downloaded `.bin` files, by their name on the Hub."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._states = {name: _load_state_dict(path, name) for name, path in paths.items()}

    def list_tensors(self) -> dict[str, tuple[str, TensorInfo]]:
        """Return the file and the header entry of each tensor, by name.

        `begin` and `end` count bytes as if the tensors of a file were stored without gaps.
        """
        tensors: dict[str, tuple[str, TensorInfo]] = {}
        for file, state in self._states.items():
            offset = 0
            for name, value in state.items():
                size = value.numel() * value.element_size()
                tensors[name] = (
                    file,
                    TensorInfo(name, _convert_dtype(value, file, name), tuple(value.shape), offset, offset + size),
                )
                offset += size
        return tensors

    def write_files(
        self, outputs: Sequence[OutputFile], directory: Path, on_progress: Callable[[int, int], None]
    ) -> dict[str, Digests]:
        """Write and hash the output files; call `on_progress(done, total)`, in bytes, after each."""
        done, total, digests = 0, sum(output.size for output in outputs), {}
        for output in outputs:
            digests[output.name] = self._write_file(output, directory / output.name)
            done += output.size
            on_progress(done, total)
        return digests

    def _write_file(self, output: OutputFile, path: Path) -> Digests:
        whole, tensors = hashlib.sha256(output.header), {}
        with path.open("wb") as file:
            file.write(output.header)
            for placed in output.tensors:
                own = hashlib.sha256()
                value = self._states[placed.source.shard][placed.source.upstream_name or placed.source.tensor.name]
                for block in _iter_blocks(value, placed.size):
                    file.write(block)
                    own.update(block)
                    whole.update(block)
                tensors[placed.source.tensor.name] = own.hexdigest()
            file.flush()
            os.fsync(file.fileno())
        return Digests(whole.hexdigest(), tensors)


def _load_state_dict(path: Path, name: str) -> dict[str, Any]:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about unusual files; a file that loads is good enough
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as problem:
        reason = str(problem).splitlines()[0][:200] if str(problem) else type(problem).__name__
        raise InfrastructureError(f"{name}: cannot be loaded with weights_only=True: {reason}") from None
    if not isinstance(state, dict) or not all(_is_tensor(key, value) for key, value in state.items()):
        raise InfrastructureError(
            f"{name}: holds something other than named tensors; only plain state dicts are supported"
        )
    return dict(state)


def _is_zip(path: Path) -> bool:
    """Return whether a file is a zip archive.

    Files from before torch 1.6 are not, and cannot be mapped.
    """
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_tensor(key: object, value: object) -> bool:
    import torch

    return isinstance(key, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided


def _convert_dtype(value: Any, file: str, name: str) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise InfrastructureError(
            f"{file}: tensor {name[:200]!r} has dtype {dtype}, which safetensors does not support"
        )
    return DTYPES[dtype]


def _iter_blocks(value: Any, size: int) -> Iterator[memoryview]:
    """Yield the first `size` bytes of a tensor, in row-major order."""
    import torch

    flat = value.detach().contiguous().flatten().view(torch.uint8)[:size]
    for start in range(0, flat.numel(), BLOCK_SIZE):
        yield memoryview(flat[start : start + BLOCK_SIZE].numpy())
