"""Keeps models loaded between two calls, because loading costs more than most forward passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Model = TypeVar("Model")
Key = tuple[object, ...]

FREE_MEMORY_FACTOR = 3
"""Free memory needed to keep other models, in sizes of the model to load: itself, its forward pass, the traces."""


@dataclass
class ModelCache(Generic[Model]):
    """Up to `capacity` models. One model too many, or one that does not fit beside the others, unloads them all."""

    capacity: int = 1
    _models: dict[Key, Model] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many models are loaded."""
        return len(self._models)

    def get(
        self,
        key: Key,
        load: Callable[[], Model],
        *,
        device: str,
        size: int = 0,
        reuse: Callable[[Key, Model], Callable[[], Model] | None] | None = None,
    ) -> tuple[Model, float]:
        """Return the model of `key` and the seconds that `load` took.

        The seconds are 0 where the model was loaded already.
        `size` is the model's size in bytes: three times that must be free for the other models to stay.
        `reuse` is asked for each kept model whether the wanted one can be made of its weights, and returns what makes
        it. That model is then unloaded; what makes the new one may hold the weights, as long as the memory suffices.
        """
        from ci.subjects.forward import measure_cost  # imports torch, so only with the first model
        from ci.subjects.memory import allocate_cublas_workspace

        if key in self._models:
            return self._models[key], 0.0
        allocate_cublas_workspace(device)
        with measure_cost(device) as cost:
            model = self._make(load, device, size, reuse)
        self._models[key] = model
        return model, cost.seconds

    def _make(
        self,
        load: Callable[[], Model],
        device: str,
        size: int,
        reuse: Callable[[Key, Model], Callable[[], Model] | None] | None,
    ) -> Model:
        """Make a model of another one's weights where that is possible, else load it."""
        from ci.subjects.memory import free_memory

        make = self._take_weights(reuse) if reuse else None
        if len(self._models) >= self.capacity or free_memory(device) < FREE_MEMORY_FACTOR * size:
            self.release()
        if make is not None and size and free_memory(device) >= FREE_MEMORY_FACTOR * size:
            return make()
        if make is not None:
            del make
            _release_memory()
        return load()

    def _take_weights(self, reuse: Callable[[Key, Model], Callable[[], Model] | None]) -> Callable[[], Model] | None:
        """Unload the first model whose weights can be used, and return what makes the wanted one of them."""
        for key in list(self._models):
            if (make := reuse(key, self._models[key])) is not None:
                del self._models[key]
                _release_memory()
                return make
        return None

    def release(self) -> None:
        """Unload every model and return its memory to the device."""
        if self._models:
            self._models.clear()
            _release_memory()


def _release_memory() -> None:
    from ci.subjects.memory import release_unused_memory

    release_unused_memory()


def checkpoint_key(checkpoint: str) -> Key:
    """Return a key of a directory and its files.

    A directory that was written again is another checkpoint.
    """
    files = sorted(path for path in Path(checkpoint).iterdir() if path.is_file())
    return checkpoint, *((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
