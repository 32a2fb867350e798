"""The content-keyed store of truncated checkpoints on disk: find, fill, finish, hold. `ci.hub.places` draws it."""

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
from ci.hub.layers import Auto
from ci.hub.manifest import MANIFEST, RULES_VERSION, Manifest, read_manifest, size_problems
from ci.hub.places import HOLD, Key, Places, folder
from ci.records import read_json, to_json

if TYPE_CHECKING:
    from ci.hub.inventory import Entry as Entry

TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Checkpoints that hub-tests fetched; it fetches them again.\n"
"""Tells backup tools to pass by (https://bford.info/cachedir/)."""
MARGIN = 64 * 1024**2
"""Bytes of disk that a fetch leaves free for others."""


@dataclass(frozen=True)
class Partial:
    """A directory that is being filled, and the lease that says so."""

    path: Path
    lease: lease.Lease


@dataclass(frozen=True)
class _Ref:
    commit: str


class Store:
    """The store below `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._places = Places(root)

    def path(self, key: Key) -> Path:
        """Where the checkpoint of `key` is when it is complete."""
        return self._places.checkpoint(key)

    def find(self, key: Key) -> tuple[Path, Manifest, str] | None:
        """The complete checkpoint of `key`, its manifest and the manifest's digest; None when there is none.

        Nothing is hashed: a file of the wrong size makes the checkpoint absent, `verify` finds the rest.
        """
        path = self.path(key)
        if not (path / MANIFEST).is_file():
            return None
        with suppress(HubTestsError):
            manifest, digest = read_manifest(path)
            named = (manifest.model_id, manifest.commit, manifest.layers, manifest.rules, manifest.remote_code)
            wanted = (key.model_id, key.commit, key.layers, RULES_VERSION, key.remote_code)
            if named == wanted and not size_problems(path, manifest):
                return path, manifest, digest
        return None

    def hold(self, path: Path) -> None:
        """Keep a checkpoint from being pruned while this process lives, and note that it was used now.

        A store that cannot be written cannot be pruned from here either: then there is nothing to do.
        """
        with suppress(OSError):
            leases, name = self._places.leases, self._places.lease_name(path)
            leases.mkdir(parents=True, exist_ok=True)
            lease.drop_dead(leases, f"{name}.*", silence=HOLD)
            lease.take(leases, name)
            os.utime(path / MANIFEST)

    def ref(self, model_id: str, revision: str | None) -> str | None:
        """The commit that a branch or tag named when it was last asked for."""
        with suppress(OSError, HubTestsError):
            path = self._places.ref(model_id, revision)
            return read_json(_Ref, path.read_bytes(), what=str(path)).commit
        return None

    def remember_ref(self, model_id: str, revision: str | None, commit: str) -> None:
        """Note what a branch or tag names now, for when the Hub cannot be asked."""
        _note(self._places.ref(model_id, revision), to_json(_Ref(commit)))

    def auto(self, model_id: str, commit: str) -> Auto | None:
        """What `auto` came to for this commit, if it was ever asked for."""
        with suppress(OSError, HubTestsError):
            path = self._places.auto(model_id, commit)
            return read_json(Auto, path.read_bytes(), what=str(path))
        return None

    def remember_auto(self, model_id: str, commit: str, auto: Auto) -> None:
        """Note what `auto` comes to, so that the next fetch need not ask for headers."""
        _note(self._places.auto(model_id, commit), to_json(auto))

    def prepare(self) -> None:
        """Make the store's directories; InfrastructureError when that cannot be."""
        places = self._places
        try:
            for path in (places.checkpoints, places.partial, places.leases, places.trash):
                path.mkdir(parents=True, exist_ok=True)
            if not (self.root / "CACHEDIR.TAG").exists():
                (self.root / "CACHEDIR.TAG").write_text(TAG, encoding="ascii")
        except OSError as error:
            raise unwritable(self.root, error) from None

    def reserve(self, size: int) -> None:
        """InfrastructureError unless `size` more bytes fit on the disk."""
        free = shutil.disk_usage(self.root).free
        if free < size + MARGIN:
            hint = "free some, or prune the store: hub-tests cache prune"
            raise InfrastructureError(
                f"{self.root}: {size + MARGIN:,} bytes needed, {free:,} free on this disk; {hint}"
            )

    def begin(self, key: Key) -> Partial | None:
        """A directory to fetch `key` into, with the parts that an interrupted fetch left there.

        None while a live process fetches the same key: then wait for it and look again.
        """
        name, places = f"{folder(key.model_id)}@{key.name}", self._places
        mine = places.partial / f"{name}.{uuid.uuid4().hex[:8]}"
        try:
            left = [path for path in places.partial.glob(f"{name}.*") if path.is_dir()]
            if any(places.is_live(path) for path in left):
                return None
            held = lease.take(places.leases, mine.name)
            for path in left:
                with suppress(OSError):  # another process was faster
                    path.rename(mine)
                    return Partial(mine, held)
            mine.mkdir()
        except OSError as error:
            raise unwritable(places.partial, error) from None
        return Partial(mine, held)

    def finish(self, key: Key, partial: Partial) -> Path:
        """Make a directory with a manifest the checkpoint of `key`; one that another process finished first stays."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.find(key) is None and path.exists():
            self._places.discard(path)
        try:
            _sync(partial.path)
            partial.path.rename(path)
            _sync(path.parent)
        except OSError:
            if self.find(key) is None:
                raise
            self._places.discard(partial.path)
        partial.lease.end()
        return path

    def abandon(self, partial: Partial, *, keep: bool) -> None:
        """Stop fetching: the parts stay for the next fetch if `keep`, else nothing does."""
        if not keep:
            self._places.discard(partial.path)
        partial.lease.end()

    def entries(self) -> tuple[Entry, ...]:
        """Everything in the store: checkpoints, damaged ones and parts."""
        return inventory.entries(self._places)

    def verify(self) -> tuple[Entry, ...]:
        """The checkpoints, each read whole and compared with its manifest."""
        return inventory.verified(self._places)

    def prune(self, max_bytes: int | None = None) -> tuple[Entry, ...]:
        """Remove stale parts, then what was used longest ago until `max_bytes` suffice; never what is in use."""
        return inventory.prune(self._places, max_bytes)


def _note(path: Path, text: str) -> None:
    """Write a small file by rename. A store that cannot be written keeps no notes."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{uuid.uuid4().hex}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)


def unwritable(path: Path, error: OSError) -> InfrastructureError:
    """One line for a disk that refuses."""
    hint = "choose another store with HUB_TESTS_CACHE or --cache, or mend this one"
    return InfrastructureError(f"{path}: cannot be written: {error.strerror or error}; {hint}")


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
