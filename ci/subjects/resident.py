"""Models that stay loaded between two calls: loading costs more than most forward passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Model = TypeVar("Model")
Key = tuple[object, ...]

ROOM = 3
"""Free memory, in sizes of the model to load: itself, and as much again for its forward and for the traces."""


@dataclass
class Resident(Generic[Model]):
    """Up to `most` models; one that would be too many, or would not fit beside the others, lets them all go first."""

    most: int = 1
    _models: dict[Key, Model] = field(default_factory=dict)

    def get(self, key: Key, load: Callable[[], Model], *, device: str, size: int = 0) -> tuple[Model, float]:
        """The model of `key`, and the seconds that `load` took: 0 where it was there already.

        `size` is what it will take, in bytes: three times that must be free for others to stay.
        """
        from ci.subjects.forward import measured  # torch, which an interpreter loads with its first model
        from ci.subjects.memory import free_memory, set_workspace_apart

        if key in self._models:
            return self._models[key], 0.0
        if len(self._models) >= self.most or free_memory(device) < ROOM * size:
            self.release()
        set_workspace_apart(device)
        with measured(device) as cost:
            model = load()
        self._models[key] = model
        return model, cost.seconds

    def release(self) -> None:
        """Let every model go and give its memory back to the device."""
        if self._models:
            from ci.subjects.memory import give_back_memory

            self._models.clear()
            give_back_memory()


def content_key(checkpoint: str) -> Key:
    """A directory by what it holds: one that was written anew is another checkpoint."""
    files = sorted(path for path in Path(checkpoint).iterdir() if path.is_file())
    return checkpoint, *((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
