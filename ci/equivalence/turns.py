"""Who has the device: on a GPU one side's model at a time, so that the largest model that fits once can be judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Holder(Protocol):
    """Whoever may keep a model loaded: Hugging Face's side, a subject, the third opinion."""

    def release(self) -> None:
        """Let it go."""
        ...


@dataclass
class Turns:
    """Hands the device from one holder to the next; on the CPU everybody keeps what they have."""

    device: str
    _holder: Holder | None = None

    def take(self, who: Holder) -> None:
        """`who` loads or runs a model next: whoever else had one lets it go first."""
        if self.device == "cpu" or self._holder is who:
            return
        if self._holder is not None:
            self._holder.release()
        self._holder = who
