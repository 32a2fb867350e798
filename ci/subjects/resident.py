"""The model that stays loaded between two calls: loading costs more than most forward passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable

Model = TypeVar("Model")
Key = tuple[object, ...]


@dataclass
class Resident(Generic[Model]):
    """At most one model, the last one asked for; another key lets it go before the next one is loaded."""

    _key: Key | None = None
    _model: Model | None = None

    def get(self, key: Key, load: Callable[[], Model], *, device: str) -> tuple[Model, float]:
        """The model of `key`, and the seconds that `load` took: 0 where it was there already."""
        from ci.subjects.forward import measured  # torch, which a subject's interpreter loads with its first model

        if self._model is not None and self._key == key:
            return self._model, 0.0
        self.release()
        with measured(device) as cost:
            model = load()
        self._key, self._model = key, model
        return model, cost.seconds

    def release(self) -> None:
        """Let the model go and give its memory back to the device."""
        if self._model is not None:
            from ci.subjects.forward import give_back_memory

            ghost = ref(self._model)
            self._key, self._model = None, None
            give_back_memory(held=ghost() is not None)


def content_key(checkpoint: str) -> Key:
    """A directory by what it holds: one that was written anew is another checkpoint."""
    files = sorted(path for path in Path(checkpoint).iterdir() if path.is_file())
    return checkpoint, *((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
