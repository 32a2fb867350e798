"""List the directories of a store, verify them byte by byte, and prune them."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ci.errors import HubTestsError
from ci.hub import lease
from ci.hub.manifest import MANIFEST, Manifest, find_content_problems, find_size_problems, read_manifest
from ci.hub.store_paths import HOLD_TIMEOUT, StorePaths, decode_model_id

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

STALE_AFTER = 3 * 24 * 3600.0
"""Seconds after which an interrupted fetch is not expected to continue."""
BLOCK_SIZE = 512
"""Bytes of the blocks that `st_blocks` counts (POSIX)."""
EntryState = Literal["complete", "damaged", "partial", "removed"]


@dataclass(frozen=True)
class StoreEntry:
    """One directory of the store. `bytes` on disk, `last_used` in seconds since 1970.

    `state` is "complete", "damaged" (`problems` says how), "partial" (a running or interrupted fetch) or "removed" (by
    the pruning that returns this entry). `in_use`: a live process holds a lease of it.
    """

    model_id: str
    revision: str
    layers: int
    path: str
    bytes: int
    state: EntryState
    last_used: float
    in_use: bool
    problems: tuple[str, ...] = ()


def list_entries(paths: StorePaths) -> tuple[StoreEntry, ...]:
    """List all directories by path, without reading file contents."""
    checkpoints = _list_directories(paths.checkpoints, "*/*")
    complete = (_describe_directory(paths, path, find_size_problems) for path in checkpoints)
    partial = (_describe_directory(paths, path, None) for path in _list_directories(paths.partial, "*"))
    return (*complete, *partial)


def verify_entries(paths: StorePaths) -> tuple[StoreEntry, ...]:
    """Read every checkpoint whole and compare it with its manifest."""
    checkpoints = _list_directories(paths.checkpoints, "*/*")
    return tuple(_describe_directory(paths, path, find_content_problems) for path in checkpoints)


def prune_entries(paths: StorePaths, max_bytes: int | None) -> tuple[StoreEntry, ...]:
    """Remove stale partial directories, then the least recently used until `max_bytes` suffice.

    What is in use is never removed. Returns all entries, removed ones with the state "removed".
    """
    entries = sorted(list_entries(paths), key=lambda entry: (entry.state == "complete", entry.last_used))
    total = sum(entry.bytes for entry in entries)
    results = []
    for entry in entries:
        stale = entry.state == "partial" and time.time() - entry.last_used > STALE_AFTER
        too_large = max_bytes is not None and total > max_bytes
        removable = (stale or too_large) and not entry.in_use
        if removable and paths.discard(Path(entry.path), unless_in_use=True):
            total -= entry.bytes
            results.append(replace(entry, state="removed"))
        else:
            results.append(entry)
    lease.remove_expired(paths.leases, "*", timeout=HOLD_TIMEOUT)
    for path in paths.trash.glob("*"):
        shutil.rmtree(path, ignore_errors=True)
    return tuple(results)


def _describe_directory(
    paths: StorePaths, path: Path, check: Callable[[Path, Manifest], list[str]] | None
) -> StoreEntry:
    """Describe one directory. `check` compares a checkpoint with its manifest; None for a partial directory."""
    partial = path.parent == paths.partial
    model, _, name = path.stem.partition("@") if partial else (path.parent.name, "", path.name)
    commit, _, rest = name.partition("-r")
    layers = rest.partition("-L")[2].partition("-")[0]
    problems = _check_manifest(path, check) if check else ()
    return StoreEntry(
        model_id=decode_model_id(model),
        revision=commit,
        layers=int(layers) if layers.isdecimal() else 0,
        path=str(path),
        bytes=sum(status.st_blocks * BLOCK_SIZE for status in _iter_file_stats(path)),
        state="partial" if partial else "damaged" if problems else "complete",
        last_used=_read_last_used(path),
        in_use=paths.is_in_use(path),
        problems=problems,
    )


def _list_directories(root: Path, pattern: str) -> list[Path]:
    return sorted(path for path in root.glob(pattern) if path.is_dir())


def _check_manifest(path: Path, check: Callable[[Path, Manifest], list[str]]) -> tuple[str, ...]:
    try:
        return tuple(check(path, read_manifest(path)[0]))
    except HubTestsError as problem:
        return (str(problem),)


def _iter_file_stats(directory: Path) -> Iterator[os.stat_result]:
    for path in directory.rglob("*"):
        with suppress(OSError):
            yield path.lstat()


def _read_last_used(path: Path) -> float:
    """Return the time of a directory's last use, in seconds since 1970.

    Each use sets the time of the manifest; for a partial directory the newest file counts.
    """
    with suppress(OSError):
        return (path / MANIFEST).stat().st_mtime
    return max((status.st_mtime for status in _iter_file_stats(path)), default=0.0)
