"""The store of truncated checkpoints on disk, keyed by content. `ci.hub.store_paths` describes its layout."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import HubTestsError, InfrastructureError
from ci.hub import inventory, lease
from ci.hub.layers import LayerChoice
from ci.hub.lease import Lease
from ci.hub.manifest import MANIFEST, RULES_VERSION, Manifest, find_size_problems, read_manifest
from ci.hub.store_paths import HOLD_TIMEOUT, CheckpointKey, StorePaths, encode_model_id
from ci.records import read_json, to_json

if TYPE_CHECKING:
    from ci.hub.inventory import StoreEntry

CACHEDIR_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# Checkpoints that hub-tests fetched; it fetches them again.\n"
)
"""Tells backup tools to skip the directory (https://bford.info/cachedir/)."""
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

        Nothing is hashed: a file of the wrong size makes the checkpoint absent, `verify` finds every other damage.
        """
        path = self.checkpoint_path(key)
        if not (path / MANIFEST).is_file():
            return None
        with suppress(HubTestsError):
            manifest, digest = read_manifest(path)
            actual = (manifest.model_id, manifest.commit, manifest.layers, manifest.rules, manifest.remote_code)
            expected = (key.model_id, key.commit, key.layers, RULES_VERSION, key.remote_code)
            if actual == expected and not find_size_problems(path, manifest):
                return StoredCheckpoint(path, manifest, digest)
        return None

    def mark_in_use(self, path: Path) -> None:
        """Protect a checkpoint from pruning while this process lives, and record the time of use.

        A store that cannot be written cannot be pruned from this machine either, so a failure does no harm.
        """
        with suppress(OSError):
            leases, name = self._paths.leases, self._paths.lease_name(path)
            leases.mkdir(parents=True, exist_ok=True)
            lease.remove_expired(leases, f"{name}.*", timeout=HOLD_TIMEOUT)
            lease.acquire(leases, name)
            os.utime(path / MANIFEST)

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

    def prune(self, max_bytes: int | None = None) -> tuple[StoreEntry, ...]:
        """Remove stale partial directories, then the least recently used until `max_bytes` suffice.

        What is in use is never removed.
        """
        return inventory.prune_entries(self._paths, max_bytes)


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


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
