"""An expected trace whose tensors stay on the GPU: each is compared with those of many other traces."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ci.subjects.trace_files import TraceReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEPT_MEMORY_SHARE = 1 / 64
"""Of the device's free memory: what the kept tensors of one reference may take beside the models."""
ALIGNMENT = 16
"""Bytes: a view in any dtype may begin at a multiple of it."""


class KeptMemory:
    """One block of device memory for the kept tensors. Make it before the first model is loaded.

    A tensor that stays in a model's segment of torch's allocator would keep all of it from the other side.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-memory-management
    """

    def __init__(self, size: int = 0, device: str = "cpu") -> None:
        """Allocate `size` bytes; none where the device does not have them."""
        try:
            self._block = torch.empty(size, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError:
            self._block = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    @classmethod
    def beside_models(cls, device: str, free_bytes: int) -> KeptMemory:
        """Allocate the share of a GPU's free memory; nothing on the CPU, where files are mapped into memory anyway."""
        return cls(int(KEPT_MEMORY_SHARE * free_bytes), device) if device != "cpu" else cls()

    def keep(self, tensor: Tensor) -> Tensor | None:
        """Return a copy in the block, which must not be changed; None where it does not fit what is left."""
        start = -(-self._used // ALIGNMENT) * ALIGNMENT
        if start + tensor.nbytes > len(self._block):
            return None
        self._used = start + tensor.nbytes
        place = self._block[start : self._used].view(tensor.dtype).view(tensor.shape)
        return place.copy_(tensor)


@dataclass(frozen=True)
class KeptTrace(TraceReader):
    """A trace directory whose tensors are read to the device once, as far as the memory goes."""

    memory: KeptMemory = field(default_factory=KeptMemory, compare=False)
    _kept: dict[str, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    @contextmanager
    def open_scope(self, scope: str, *, device: str = "cpu") -> Iterator[Callable[[str], Tensor]]:
        """Open a scope's file, and yield a function that reads or returns a kept tensor."""
        with super().open_scope(scope, device=device) as read:
            yield (lambda name: self._get(name, read)) if device != "cpu" else read

    def _get(self, name: str, read: Callable[[str], Tensor]) -> Tensor:
        if name not in self._kept:
            tensor = read(name)
            kept = self.memory.keep(tensor)
            if kept is None:
                return tensor
            self._kept[name] = kept
        return self._kept[name]
