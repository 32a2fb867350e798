"""Verify a checkpoint before it is handed out; read it again only if somebody could have written it since.

A record in the store says which files were hashed. It is believed where nobody but this user and root could have
changed a file without a trace: a file system of this machine, everything owned by them, and no write permission for
others. Then any change of a file changes its `ctime`, which only the kernel sets. Everywhere else each hit is hashed.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import HubTestsError
from ci.hub.checkpoint_files import find_content_problems, find_size_problems
from ci.hub.lease import read_clock
from ci.records import read_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci.hub.manifest import Manifest
    from ci.hub.store_paths import StorePaths

SETTLED = 2.0
"""Seconds that a file must have been unchanged before it was hashed: file systems tell times apart up to 2 s (FAT)."""
LOCAL_FILE_SYSTEMS = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"})
"""Those whose files only this machine's kernel changes."""


@dataclass(frozen=True)
class FileState:
    """What the kernel says of a file; times in nanoseconds since 1970."""

    size: int
    modified: int
    changed: int
    inode: int


@dataclass(frozen=True)
class VerifiedRecord:
    """The manifest whose files were hashed, and the state of each before and after that."""

    manifest_sha256: str
    files: Mapping[str, FileState]


def find_problems(paths: StorePaths, path: Path, manifest: Manifest, manifest_sha256: str) -> list[str]:
    """List where a checkpoint differs from its manifest.

    A trusted record of its last hashing spares hashing it now.
    """
    if problems := find_size_problems(path, manifest):
        return problems
    with suppress(OSError):
        paths.verified.mkdir(mode=0o755, exist_ok=True)
    private = is_private(paths, path, manifest.files)
    states = _read_states(path, manifest)
    if private and _read_record(paths.verified_path(path)) == VerifiedRecord(manifest_sha256, states):
        return []
    clock = read_clock(paths.leases) if private else 0.0
    problems = find_content_problems(path, manifest)
    settled = all(state.changed / 1e9 < clock - SETTLED for state in states.values())
    if private and settled and not problems and _read_states(path, manifest) == states:
        _write_record(paths.verified_path(path), VerifiedRecord(manifest_sha256, states))
    return problems


def is_private(paths: StorePaths, path: Path, names: Iterable[str]) -> bool:
    """Return whether nobody but this user and root could have written a checkpoint."""
    places = [paths.root, paths.checkpoints, path.parent, path, paths.verified]
    below = [path / name for name in names]
    parents = {parent for file in below for parent in file.parents if parent.is_relative_to(path)}
    return all(_is_own(place) for place in {*places, *below, *parents}) and (
        read_file_system(paths.root) in LOCAL_FILE_SYSTEMS
    )


def read_file_system(path: Path) -> str:
    """Return the type of the file system that holds a path, "" if unknown (man proc_pid_mountinfo)."""
    best, found = "", ""
    place = os.fsencode(path.resolve())
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            words, _, rest = line.partition(b" - ")
            mount = words.split()[4].decode("unicode_escape").encode("latin-1")
            inside = mount == b"/" or place == mount or place.startswith(mount + b"/")
            if inside and len(mount) >= len(best):
                best, found = mount.decode("latin-1"), rest.split()[0].decode("ascii", errors="replace")
    return found


def _is_own(path: Path) -> bool:
    """Return whether nobody but this user and root may write a file or directory."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read_states(path: Path, manifest: Manifest) -> dict[str, FileState]:
    states = {}
    for name in manifest.files:
        status = (path / name).lstat()
        states[name] = FileState(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return states


def _read_record(path: Path) -> VerifiedRecord | None:
    """Read a record; None where there is none, or others could have written it."""
    if not _is_own(path):
        return None
    with suppress(OSError, HubTestsError):
        return read_json(VerifiedRecord, path.read_bytes(), what=str(path))
    return None


def _write_record(path: Path, record: VerifiedRecord) -> None:
    """Write a record by rename, readable for its owner alone.

    Without it the next hit is hashed again.
    """
    draft = path.with_name(f".{uuid.uuid4().hex}")
    with suppress(OSError):
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 -- of a descriptor
            file.write(to_json(record))
        draft.replace(path)
