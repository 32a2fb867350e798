"""What is in a store: to list, to verify byte by byte, to prune."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ci.errors import HubTestsError
from ci.hub import lease
from ci.hub.manifest import MANIFEST, Manifest, content_problems, read_manifest, size_problems
from ci.hub.places import HOLD, Places

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

STALE = 3 * 24 * 3600.0
"""Seconds after which nobody is expected to come back for the parts of an interrupted fetch."""
State = Literal["complete", "damaged", "partial", "removed"]


@dataclass(frozen=True)
class Entry:
    """One directory of the store. `bytes` on disk, `last_used` in seconds since 1970.

    `state` is "complete", "damaged" (`problems` says how), "partial" (a running or interrupted fetch) or "removed" (by
    pruning, just now). `in_use` says that a live process holds it.
    """

    model_id: str
    revision: str
    layers: int
    path: str
    bytes: int
    state: State
    last_used: float
    in_use: bool
    problems: tuple[str, ...] = ()


def entries(places: Places) -> tuple[Entry, ...]:
    """Everything, without reading contents: checkpoints, damaged ones and parts, by path."""
    complete = (_entry(places, path, size_problems) for path in _directories(places.checkpoints, "*/*"))
    partial = (_entry(places, path, None) for path in _directories(places.partial, "*"))
    return (*complete, *partial)


def verified(places: Places) -> tuple[Entry, ...]:
    """The checkpoints, each read whole and compared with its manifest."""
    return tuple(_entry(places, path, content_problems) for path in _directories(places.checkpoints, "*/*"))


def prune(places: Places, max_bytes: int | None) -> tuple[Entry, ...]:
    """Remove the parts that nobody will come back for, then what was used longest ago, until `max_bytes` suffice.

    What a live process uses is never removed. Gives all entries, with state "removed" where they are.
    """
    found = sorted(entries(places), key=lambda entry: (entry.state == "complete", entry.last_used))
    total = sum(entry.bytes for entry in found)
    after = []
    for entry in found:
        stale = entry.state == "partial" and time.time() - entry.last_used > STALE
        over = max_bytes is not None and total > max_bytes
        if (stale or over) and not entry.in_use and places.discard(Path(entry.path), unless_live=True):
            total -= entry.bytes
            after.append(replace(entry, state="removed"))
        else:
            after.append(entry)
    lease.drop_dead(places.leases, "*", silence=HOLD)
    for path in places.trash.glob("*"):
        shutil.rmtree(path, ignore_errors=True)
    return tuple(after)


def _entry(places: Places, path: Path, check: Callable[[Path, Manifest], list[str]] | None) -> Entry:
    partial = path.parent == places.partial
    folder, _, name = path.stem.partition("@") if partial else (path.parent.name, "", path.name)
    commit, _, rest = name.partition("-r")
    layers = rest.partition("-L")[2].removesuffix("-code")
    problems = _problems(path, check) if check else ()
    return Entry(
        model_id=folder.replace("--", "/"),
        revision=commit,
        layers=int(layers) if layers.isdecimal() else 0,
        path=str(path),
        bytes=sum(status.st_blocks * 512 for status in _statuses(path)),
        state="partial" if partial else "damaged" if problems else "complete",
        last_used=_last_used(path),
        in_use=places.is_live(path),
        problems=problems,
    )


def _directories(root: Path, pattern: str) -> list[Path]:
    return sorted(path for path in root.glob(pattern) if path.is_dir())


def _problems(path: Path, check: Callable[[Path, Manifest], list[str]]) -> tuple[str, ...]:
    try:
        return tuple(check(path, read_manifest(path)[0]))
    except HubTestsError as problem:
        return (str(problem),)


def _statuses(path: Path) -> Iterator[os.stat_result]:
    for found in path.rglob("*"):
        with suppress(OSError):
            yield found.lstat()


def _last_used(path: Path) -> float:
    """When a checkpoint was last fetched or found: its manifest's time; of parts, the newest file's."""
    with suppress(OSError):
        return (path / MANIFEST).stat().st_mtime
    return max((status.st_mtime for status in _statuses(path)), default=0.0)
