"""How far a fetch is, as data. Rendering is the caller's: a fetch prints nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One moment of a fetch: bytes done and in all, bytes a second (recent), seconds left (None: unknown yet).

    `phase` is "resolve", "headers", "tensors", "files" or "done".
    """

    model_id: str
    phase: str
    done: int
    total: int
    rate: float = 0.0
    eta: float | None = None
