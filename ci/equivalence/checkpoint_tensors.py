"""The tensors of a checkpoint directory by name, read one at a time; equality bit for bit after dtype normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ci.errors import SubjectError

_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


@dataclass(frozen=True)
class CheckpointTensors:
    """The safetensors files of a directory, Hugging Face's or Fast-LLM's."""

    directory: Path

    @cached_property
    def files(self) -> dict[str, Path]:
        """Tensor name → file. Raises SubjectError for a damaged file, for none, or for a tensor in two files."""
        files: dict[str, Path] = {}
        for path in sorted(self.directory.glob("*.safetensors")):
            for name in _read_names(path):
                if name in files:
                    raise SubjectError(f"{self.directory}: {name!r} is both in {files[name].name} and in {path.name}")
                files[name] = path
        if not files:
            raise SubjectError(f"{self.directory} holds no tensors: expected *.safetensors")
        return files

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def read_dtypes(self) -> dict[str, str]:
        """Return each tensor's dtype as safetensors names it. Raises SubjectError as `files` does."""
        dtypes: dict[str, str] = {}
        for path in dict.fromkeys(self.files.values()):
            with safe_open(path, framework="pt") as file:
                dtypes |= {name: file.get_slice(name).get_dtype() for name in list(file.keys())}
        return dtypes

    def read(self, name: str) -> Tensor:
        """Read one tensor from disk; it is not kept."""
        try:
            with safe_open(self.files[name], framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as problem:
            raise SubjectError(f"{self.files[name]}: {name!r} cannot be read: {problem}") from None
        return tensor


def have_same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether shapes and, in the wider of both dtypes, bits are equal.

    NaN equals itself, 0.0 does not equal -0.0.
    """
    if one.shape != other.shape:
        return False
    wider = one.dtype
    if other.dtype != one.dtype or one.dtype not in _BITS:  # a cast reads and writes three times as much
        wider = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    return bool(torch.equal(*(tensor.to(wider).contiguous().view(_BITS[wider]) for tensor in (one, other))))


def find_largest_difference(one: Tensor, other: Tensor) -> float:
    """Return max |one - other| of two tensors of one shape, in float64."""
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


def _read_names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as problem:
        raise SubjectError(f"{path} cannot be read: {problem}") from None
