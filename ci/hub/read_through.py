"""Find a checkpoint in the local store, else copy it from the remote one; write to the remote what it lacks."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from ci.hub.remote_store import DamagedRemoteError, RemoteStore
from ci.hub.store import make_disk_error

if TYPE_CHECKING:
    from ci.hub.remote_store import RemoteCheckpoint
    from ci.hub.store import PartialCheckpoint, Store, StoredCheckpoint
    from ci.hub.store_paths import CheckpointKey
    from ci.settings import Settings

POLL_SECONDS = 0.5


def find_stored(store: Store, key: CheckpointKey, settings: Settings, *, fetched: bool) -> StoredCheckpoint | None:
    """Find the verified checkpoint of `key`, marked as in use; None where neither store has it.

    `fetched`: this process has just written it. A damaged copy in the remote store counts as absent, and is written
    anew after the fetch. Raises InfrastructureError when a store fails.
    """
    stored = store.find_fetched(key) if fetched else store.find_verified(key)
    if not settings.store_url:
        return stored
    remote = RemoteStore(settings.store_url)
    if stored is None:
        with suppress(DamagedRemoteError):
            stored = copy_from_remote(store, remote, key)
            fetched = False
    if stored is not None and settings.uploads:
        _write_back(remote, key, stored, fetched=fetched)
    return stored


def _write_back(remote: RemoteStore, key: CheckpointKey, stored: StoredCheckpoint, *, fetched: bool) -> None:
    """Write what the remote store lacks, or renew there the checkpoint's time of use."""
    there = None if fetched else remote.find(key)
    if there is None:
        remote.upload(key, stored)
    elif there.manifest_sha256 == stored.manifest_sha256:
        remote.renew(key, stored)


def copy_from_remote(
    store: Store, remote: RemoteStore, key: CheckpointKey, manifest_sha256: str | None = None
) -> StoredCheckpoint | None:
    """Copy a checkpoint into the local store; return None where the remote one lacks it.

    Every byte is hashed on its way. Raises DamagedRemoteError for other bytes than the manifest says.
    """
    found = remote.find(key)
    if found is None or manifest_sha256 not in (None, found.manifest_sha256):
        return None
    store.create_directories()
    while (partial := store.claim_partial(key)) is None:
        time.sleep(POLL_SECONDS)
        if stored := store.find_verified(key):
            return stored
    try:
        _fill(store, partial, remote, found)
    except OSError as error:
        store.abandon(partial, keep=True)
        raise make_disk_error(partial.path, error) from None
    except BaseException:
        store.abandon(partial, keep=True)
        raise
    store.finish(key, partial)
    return store.find_fetched(key)


def _fill(store: Store, partial: PartialCheckpoint, remote: RemoteStore, found: RemoteCheckpoint) -> None:
    store.check_free_space(sum(entry.size for entry in found.manifest.files.values()))
    remote.download(found, partial.path, lambda _done, _total: partial.lease.renew())
    if not partial.path.is_dir():
        raise InfrastructureError(f"{partial.path}: another process took it during the copy; try again")
