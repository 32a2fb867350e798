"""Hub to truncated checkpoint: the steps in order, over one frozen request. Prints nothing; progress is a callback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.hub.progress import Progress
    from ci.settings import Settings


@dataclass(frozen=True)
class FetchRequest:
    """Which model, at which revision (None: the default branch), and how many layers of it.

    `layers` is a count, or "auto" for the fewest layers that hold every kind of layer. `allow_remote_code` also
    fetches the repository's Python files; nothing here ever runs them.
    """

    model_id: str
    layers: int | Literal["auto"] = 2
    revision: str | None = None
    allow_remote_code: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A truncated checkpoint in the store.

    `revision` is the full commit, `layers` the count kept of `layers_upstream`. `bytes_kept` counts the tensors' bytes,
    `bytes_fetched` every body byte received, `requests` those sent to the Hub's own origin. `kinds_missed` names the
    kinds of layer that N = 2 would have missed (only when "auto" was asked for). `manifest_sha256` is the digest of
    `hub-tests.json`, which itself names every file's and every tensor's. `notes` are lines for people.
    """

    model_id: str
    revision: str
    layers: int
    path: str
    cache: Literal["hit", "miss"]
    bytes_kept: int
    bytes_fetched: int
    requests: int
    seconds: float
    manifest_sha256: str
    layers_upstream: int
    kinds_missed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def fetch(
    request: FetchRequest, settings: Settings, *, progress: Callable[[Progress], None] | None = None
) -> Checkpoint:
    """The checkpoint that `request` asks for, from the store where it has it, else fetched into it."""
    raise NotImplementedError
