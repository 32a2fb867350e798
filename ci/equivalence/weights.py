"""The tensors of a checkpoint directory by name, read one at a time; equality bit for bit after dtype normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ci.errors import SubjectError

_WIDE = {torch.float64: torch.int64, torch.float32: torch.int32}


@dataclass(frozen=True)
class Weights:
    """The safetensors files of a directory, Hugging Face's or Fast-LLM's."""

    directory: Path

    @cached_property
    def files(self) -> dict[str, Path]:
        """Tensor name → file. Raises SubjectError for a damaged file, for none, or for a tensor in two files."""
        found: dict[str, Path] = {}
        for path in sorted(self.directory.glob("*.safetensors")):
            for name in _names(path):
                if name in found:
                    raise SubjectError(f"{self.directory}: {name!r} is both in {found[name].name} and in {path.name}")
                found[name] = path
        if not found:
            raise SubjectError(f"{self.directory} holds no tensors: expected *.safetensors")
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def tensor(self, name: str) -> Tensor:
        """One tensor, read now and not kept."""
        try:
            with safe_open(self.files[name], framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as problem:
            raise SubjectError(f"{self.files[name]}: {name!r} cannot be read: {problem}") from None
        return tensor


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal shape and, in the wider of both dtypes, equal bits: NaN equals itself, 0.0 does not equal -0.0."""
    return one.shape == other.shape and bool(torch.equal(*(_bits(t, _common(one, other)) for t in (one, other))))


def largest_difference(one: Tensor, other: Tensor) -> float:
    """max |one - other| of two tensors of one shape, in float64."""
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


def _common(one: Tensor, other: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)


def _bits(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype).contiguous().view(_WIDE[dtype])


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as problem:
        raise SubjectError(f"{path} cannot be read: {problem}") from None
