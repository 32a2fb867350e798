"""The store of truncated checkpoints on disk, keyed by content. `ci.hub.store_paths` describes its layout."""

from __future__ import annotations

import glob
import os
import shutil
import stat
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import HubTestsError, InfrastructureError
from ci.hub import inventory, lease, prune, verified
from ci.hub.checkpoint_files import find_size_problems
from ci.hub.known_files import find_known_file
from ci.hub.layers import LayerChoice
from ci.hub.lease import Lease
from ci.hub.manifest import MANIFEST, IncompatibleManifestError, Manifest, read_manifest
from ci.hub.store_paths import HOLD_SILENCE, HOLD_TIMEOUT, CheckpointKey, StorePaths, encode_model_id, is_manifest_of
from ci.records import read_json, to_json

if TYPE_CHECKING:
    from ci.hub.inventory import StoreEntry
    from ci.hub.prune import PruneRequest
    from ci.hub.repository import RemoteFile

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
CACHEDIR_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# Checkpoints that hub-tests fetched; it fetches them again.\n"
)
"""Tells backup tools to skip the directory (https://bford.info/cachedir/)."""
REPAIR_HINT = "on a machine that writes the store: hub-tests cache repair"
FREE_SPACE_MARGIN = 64 * 1024**2
"""Bytes of disk that a fetch leaves free for others."""


@dataclass(frozen=True)
class PartialCheckpoint:
    """A directory that is being filled, and this process's lease of it."""

    path: Path
    lease: Lease


@dataclass(frozen=True)
class StoredCheckpoint:
    """A complete checkpoint, its manifest and the manifest's SHA-256 in hex."""

    path: Path
    manifest: Manifest
    manifest_sha256: str


@dataclass(frozen=True)
class _Ref:
    commit: str


class Store:
    """The store below `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths = StorePaths(root)

    def checkpoint_path(self, key: CheckpointKey) -> Path:
        """Return the directory of the complete checkpoint of `key`."""
        return self._paths.checkpoint_path(key)

    def find(self, key: CheckpointKey) -> StoredCheckpoint | None:
        """Find the complete checkpoint of `key`.

        Nothing is hashed, see `find_verified`. Raises IncompatibleManifestError for one of a newer hub-tests.
        """
        path = self.checkpoint_path(key)
        if not (path / MANIFEST).is_file():
            return None
        try:
            manifest, digest = read_manifest(path)
        except IncompatibleManifestError:
            raise
        except HubTestsError:
            return None
        with suppress(OSError):  # another process removed it meanwhile
            if is_manifest_of(manifest, key) and not find_size_problems(path, manifest):
                return StoredCheckpoint(path, manifest, digest)
        return None

    def find_verified(self, key: CheckpointKey) -> StoredCheckpoint | None:
        """Find the complete checkpoint of `key`, marked as in use, with every byte verified.

        A damaged one is moved into the quarantine, so that it is fetched again. Raises InfrastructureError where it
        cannot be moved, or where it is about to be removed and this machine cannot keep it.
        """
        stored = self.find(key)
        if stored is None:
            return None
        self.mark_in_use(stored.path)
        inode = stored.path.lstat().st_ino
        problems = verified.find_problems(self._paths, stored.path, stored.manifest, stored.manifest_sha256)
        if not problems:
            return stored
        if self._paths.set_aside(stored.path, inode) is None and stored.path.exists():
            raise InfrastructureError(f"{stored.path}: damaged: {problems[0]}; {REPAIR_HINT}")
        return None

    def find_fetched(self, key: CheckpointKey) -> StoredCheckpoint | None:
        """Find the checkpoint that this process has just written, and mark it as in use."""
        stored = self.find(key)
        if stored is not None:
            self.mark_in_use(stored.path)
        return stored

    def find_small_file(self, model_id: str, file: RemoteFile) -> bytes | None:
        """Find a listed file, by its digest, in any checkpoint of a model."""
        return find_known_file(self._paths.checkpoints / encode_model_id(model_id), file)

    def set_aside(self, stored: StoredCheckpoint) -> None:
        """Move a checkpoint into the quarantine."""
        with suppress(OSError):
            self._paths.set_aside(stored.path, stored.path.lstat().st_ino)

    def mark_in_use(self, path: Path) -> None:
        """Protect a checkpoint from pruning while this process lives, and record the time of use.

        A store that cannot be written cannot be pruned from this machine either. Raises InfrastructureError there if
        another machine has announced that it will remove the checkpoint.
        """
        leases, name = self._paths.leases, self._paths.lease_name(path)
        try:
            leases.mkdir(parents=True, exist_ok=True)
            lease.remove_expired(leases, f"{glob.escape(name)}.*", timeout=HOLD_TIMEOUT, silence=HOLD_SILENCE)
            lease.hold(leases, name)
            os.utime(self._paths.manifest_path(path))
            self._paths.announcement_path(path).unlink(missing_ok=True)
        except OSError:
            if prune.is_announced(self._paths, path):
                raise InfrastructureError(
                    f"{path}: is about to be pruned, and this machine cannot write the store to keep it; fetch it "
                    "on a machine that can"
                ) from None

    def hold_for_run(self, path: Path, run: str) -> None:
        """Protect a checkpoint from pruning while a workflow run lasts; a day at most."""
        with suppress(OSError):
            lease.hold_for_run(self._paths.leases, self._paths.lease_name(path), run)

    def find_commit(self, model_id: str, revision: str | None) -> str | None:
        """Find the commit of a branch or tag at its last fetch."""
        with suppress(OSError, HubTestsError):
            path = self._paths.ref_path(model_id, revision)
            return read_json(_Ref, path.read_bytes(), what=str(path)).commit
        return None

    def save_commit(self, model_id: str, revision: str | None, commit: str) -> None:
        """Save the commit of a branch or tag for offline use."""
        _write_note(self._paths.ref_path(model_id, revision), to_json(_Ref(commit)))

    def find_layer_choice(self, model_id: str, commit: str) -> LayerChoice | None:
        """Find the layers that "auto" chose for this commit at an earlier fetch."""
        with suppress(OSError, HubTestsError):
            path = self._paths.layer_choice_path(model_id, commit)
            return read_json(LayerChoice, path.read_bytes(), what=str(path))
        return None

    def save_layer_choice(self, model_id: str, commit: str, choice: LayerChoice) -> None:
        """Save the layers that "auto" chose, so that the next fetch needs no headers."""
        _write_note(self._paths.layer_choice_path(model_id, commit), to_json(choice))

    def create_directories(self) -> None:
        """Create the directories of the store. Raises InfrastructureError when that fails."""
        paths = self._paths
        try:
            for path in (paths.checkpoints, paths.partial, paths.leases, paths.trash):
                path.mkdir(parents=True, exist_ok=True)
            paths.verified.mkdir(mode=0o755, exist_ok=True)
            if not (self.root / "CACHEDIR.TAG").exists():
                (self.root / "CACHEDIR.TAG").write_text(CACHEDIR_TAG, encoding="ascii")
        except OSError as error:
            raise make_disk_error(self.root, error) from None

    def check_free_space(self, size: int) -> None:
        """Raise InfrastructureError unless `size` more bytes fit on the disk."""
        free = shutil.disk_usage(self.root).free
        if free < size + FREE_SPACE_MARGIN:
            needed = (size + FREE_SPACE_MARGIN) / 1e9
            hint = "free some, or prune the store: hub-tests cache prune --max-size SIZE"
            raise InfrastructureError(
                f"{self.root}: {needed:.2f} GB needed, {free / 1e9:.2f} GB free on this disk; {hint}"
            )

    def claim_partial(self, key: CheckpointKey) -> PartialCheckpoint | None:
        """Return a directory to fetch `key` into, with the files that an interrupted fetch left there.

        Returns None while a live process fetches the same key: wait for it, then call `find` again.
        """
        name, paths = f"{encode_model_id(key.model_id)}@{key.name}", self._paths
        own = paths.partial / f"{name}.{uuid.uuid4().hex[:8]}"
        try:
            left_over = [path for path in paths.partial.glob(f"{name}.*") if path.is_dir()]
            if any(paths.is_in_use(path) for path in left_over):
                return None
            own_lease = lease.acquire(paths.leases, own.name)
            for path in left_over:
                with suppress(OSError):  # another process was faster
                    path.rename(own)
                    return PartialCheckpoint(own, own_lease)
            own.mkdir()
        except OSError as error:
            raise make_disk_error(paths.partial, error) from None
        return PartialCheckpoint(own, own_lease)

    def finish(self, key: CheckpointKey, partial: PartialCheckpoint) -> Path:
        """Rename a filled directory to the checkpoint of `key`.

        If another process finished the same checkpoint first, that one stays.
        """
        path = self.checkpoint_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.find(key) is None and path.exists():
            self._paths.discard(path)
        try:
            _forbid_others_to_write(partial.path)
            _sync_directory(partial.path)
            partial.path.rename(path)
            _sync_directory(path.parent)
        except OSError:
            if self.find(key) is None:
                raise
            self._paths.discard(partial.path)
        partial.lease.release()
        return path

    def abandon(self, partial: PartialCheckpoint, *, keep: bool) -> None:
        """Stop a fetch; `keep` leaves its files for the next one."""
        if not keep:
            self._paths.discard(partial.path)
        partial.lease.release()

    def list_entries(self) -> tuple[StoreEntry, ...]:
        """List all directories: checkpoints, damaged ones and partial ones."""
        return inventory.list_entries(self._paths)

    def verify(self) -> tuple[StoreEntry, ...]:
        """Read every checkpoint whole and compare it with its manifest."""
        return inventory.verify_entries(self._paths)

    def prune(self, request: PruneRequest) -> tuple[StoreEntry, ...]:
        """Remove what the request allows to go. What is in use is never removed."""
        return prune.prune_entries(self._paths, request)


def make_disk_error(path: Path, error: OSError) -> InfrastructureError:
    """Return a one-line error for a failed write."""
    hint = "choose another store with HUB_TESTS_CACHE or --cache, or repair this one"
    return InfrastructureError(f"{path}: cannot be written: {error.strerror or error}; {hint}")


def _write_note(path: Path, text: str) -> None:
    """Write a small file by rename. A store that cannot be written stays without it."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{uuid.uuid4().hex}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)


def _forbid_others_to_write(directory: Path) -> None:
    """Take write permission for group and others from all files: a checkpoint never changes."""
    for path in directory.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and mode & OTHERS_WRITE:
            path.chmod(stat.S_IMODE(mode) & ~OTHERS_WRITE)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
