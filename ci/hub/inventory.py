"""List the directories of a store with their state, and verify them byte by byte."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ci.errors import HubTestsError
from ci.hub.checkpoint_files import find_content_problems, find_size_problems
from ci.hub.code_manifest import find_code_problems
from ci.hub.manifest import IncompatibleManifestError, Manifest, read_manifest
from ci.hub.repository import is_commit
from ci.hub.store_paths import StorePaths, decode_model_id

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from pathlib import Path

BLOCK_SIZE = 512
"""Bytes of the blocks that `st_blocks` counts (POSIX)."""
EntryState = Literal["complete", "damaged", "incompatible", "partial", "quarantined", "leaving", "removed"]
_UNIQUE = re.compile(r"\.[0-9a-f]{8}(\.repaired)?$")


@dataclass(frozen=True)
class StoreEntry:
    """One directory of the store. `bytes` on disk, `last_used` in seconds since 1970 by the file server's clock.

    `state` is "complete", "damaged" (`problems` says how), "incompatible" (of a newer hub-tests), "partial" (a running
    or interrupted fetch), "quarantined" (was damaged), or what `prune` did: "removed", or "leaving" (announced).
    `kind` is "code" for the Python files that a model brings, which have no layers.
    `in_use`: a live process or a run holds a lease of it, which `holder` names. `reason` is why `prune` took or left
    it.
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
    holder: str = ""
    reason: str = ""
    kind: Literal["checkpoint", "code"] = "checkpoint"


def list_entries(paths: StorePaths) -> tuple[StoreEntry, ...]:
    """List all directories by path, without reading file contents."""
    checkpoints = list_directories(paths.checkpoints, "*/*")
    complete = (_describe_directory(paths, path, find_size_problems) for path in checkpoints)
    others = (*list_directories(paths.partial, "*"), *list_directories(paths.quarantine, "*"))
    own_code = (_describe_code(paths, path) for path in list_code(paths))
    return (*complete, *own_code, *(_describe_directory(paths, path, None) for path in others))


def verify_entries(paths: StorePaths) -> tuple[StoreEntry, ...]:
    """Read every checkpoint, and all code of models, whole and compare it with its manifest."""
    checkpoints = list_directories(paths.checkpoints, "*/*")
    described = (_describe_directory(paths, path, find_content_problems) for path in checkpoints)
    return (*described, *(_describe_code(paths, path) for path in list_code(paths)))


def list_code(paths: StorePaths) -> list[Path]:
    """List the directories with the Python files of models, by path."""
    return [path for path in list_directories(paths.code, "*/*") if is_commit(path.name)]


def list_directories(root: Path, pattern: str) -> list[Path]:
    """List the directories that match a pattern, by path."""
    return sorted(path for path in root.glob(pattern) if path.is_dir())


def strip_unique(name: str) -> str:
    """Return the name `<owner>--<name>@<key>` of a partial or quarantined directory."""
    return _UNIQUE.sub("", name)


def check_directory(path: Path, check: Callable[[Path, Manifest], list[str]]) -> tuple[EntryState, tuple[str, ...]]:
    """Return state and problems of a checkpoint; `check` compares it with its manifest."""
    try:
        problems = tuple(check(path, read_manifest(path)[0]))
    except IncompatibleManifestError as problem:
        return "incompatible", (str(problem),)
    except HubTestsError as problem:
        return "damaged", (str(problem),)
    except OSError as error:
        return "damaged", (f"cannot be read: {error.strerror or error}",)
    return ("damaged", problems) if problems else ("complete", ())


def _describe_directory(
    paths: StorePaths, path: Path, check: Callable[[Path, Manifest], list[str]] | None
) -> StoreEntry:
    """Describe one directory. `check` compares a checkpoint with its manifest; None for any other directory."""
    name = strip_unique(paths.lease_name(path))
    model, _, key = name.partition("@")
    commit, _, rest = key.partition("-r")
    layers = rest.partition("-L")[2].partition("-")[0]
    other: EntryState = "partial" if path.parent == paths.partial else "quarantined"
    state, problems = check_directory(path, check) if check else (other, ())
    holder = paths.find_holder(path)
    return StoreEntry(
        model_id=decode_model_id(model),
        revision=commit,
        layers=int(layers) if layers.isdecimal() else 0,
        path=str(path),
        bytes=sum(status.st_blocks * BLOCK_SIZE for status in _iter_file_stats(path)),
        state=state,
        last_used=_read_last_used(paths, path),
        in_use=holder is not None,
        problems=problems,
        holder=holder or "",
    )


def _describe_code(paths: StorePaths, path: Path) -> StoreEntry:
    """Describe the code of a model at one commit; it is small, so each file is hashed."""
    problems, holder = find_code_problems(path), paths.find_holder(path)
    return StoreEntry(
        model_id=decode_model_id(path.parent.name),
        revision=path.name,
        layers=0,
        path=str(path),
        bytes=sum(status.st_blocks * BLOCK_SIZE for status in _iter_file_stats(path)),
        state="damaged" if problems else "complete",
        last_used=_read_last_used(paths, path),
        in_use=holder is not None,
        problems=tuple(problems),
        holder=holder or "",
        kind="code",
    )


def _iter_file_stats(directory: Path) -> Iterator[os.stat_result]:
    for path in directory.rglob("*"):
        with suppress(OSError):
            yield path.lstat()


def _read_last_used(paths: StorePaths, path: Path) -> float:
    """Return the time of a directory's last use, in seconds since 1970.

    Each use sets the time of the manifest; the rename into the quarantine sets the directory's own change time. For a
    partial directory the newest file counts.
    """
    with suppress(OSError):
        return path.stat().st_ctime if path.parent == paths.quarantine else paths.manifest_path(path).lstat().st_mtime
    return max((status.st_mtime for status in _iter_file_stats(path)), default=0.0)
