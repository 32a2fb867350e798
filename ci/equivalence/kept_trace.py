"""An expected trace whose tensors stay on the GPU: each is compared with those of many other traces."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ci.subjects.trace_files import TraceReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

KEPT_MEMORY_SHARE = 1 / 32
"""Of the device's free memory: what the kept tensors of one reference may take beside the models."""


@dataclass
class KeptBytes:
    """The bytes of device memory that kept tensors may still take."""

    left: int


@dataclass(frozen=True)
class KeptTrace(TraceReader):
    """A trace directory that is copied to a GPU once; its tensors must not be changed.

    On the CPU nothing is kept: the files are mapped into memory anyway.
    """

    budget: KeptBytes = field(default_factory=lambda: KeptBytes(0), compare=False)
    _kept: dict[str, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    @contextmanager
    def open_scope(self, scope: str, *, device: str = "cpu") -> Iterator[Callable[[str], Tensor]]:
        """Open a scope's file and give a function that reads a tensor by name, or gives the one that was kept."""
        with super().open_scope(scope, device=device) as read:
            yield (lambda name: self._get(name, read)) if device != "cpu" else read

    def _get(self, name: str, read: Callable[[str], Tensor]) -> Tensor:
        """Return the kept tensor; read it, and keep it where it fits what is left."""
        if name in self._kept:
            return self._kept[name]
        tensor = read(name)
        if tensor.nbytes <= self.budget.left:
            self.budget.left -= tensor.nbytes
            self._kept[name] = tensor
        return tensor
