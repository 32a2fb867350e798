"""The layout of a store, which directories are in use, and how a directory is removed.

    <root>/CACHEDIR.TAG
    <root>/checkpoints/<owner>--<name>/<commit>-r<rules>-L<layers>[-P…][-V…][-E…][-code]/
                                                                              complete: hub-tests.json is inside
    <root>/partial/<owner>--<name>@<key>.<unique>/                            of a running or interrupted fetch
    <root>/trash/…                                                            being removed
    <root>/leases/*.lease                                                     which process uses what
    <root>/refs/<owner>--<name>/<revision>.json                               the last known commit of a branch or tag
    <root>/auto/<owner>--<name>/<commit>-r<rules>.json                        the layers that "auto" chose

A checkpoint appears by one rename and disappears by one rename, so it is complete or absent. Its content depends on its
key alone: any machine may fetch it, machines may share it, and the store may be mounted read-only.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ci.hub import lease
from ci.hub.manifest import RULES_VERSION
from ci.hub.slices import WHOLE, Slice

FETCH_TIMEOUT = 600.0
"""Seconds without a renewed lease after which a fetch counts as dead (stopped, or on another machine)."""
HOLD_TIMEOUT = 12 * 3600.0
"""Seconds for which a process may hold a checkpoint; on this machine at most as long as it lives."""

MAX_LISTED = 40
"""Characters of chosen layers in a directory's name; a longer list is hashed."""


@dataclass(frozen=True)
class CheckpointKey:
    """The values that decide every byte of a checkpoint, together with RULES_VERSION.

    `picked` are the indices of chosen layers; empty where the first ones are kept.
    """

    model_id: str
    commit: str
    layers: int
    remote_code: bool = False
    picked: tuple[int, ...] = ()
    slice: Slice = WHOLE

    @property
    def name(self) -> str:
        """Name of the checkpoint's directory."""
        parts = [f"{self.commit}-r{RULES_VERSION}-L{self.layers}"]
        if self.picked:
            listed = "_".join(map(str, self.picked))
            parts.append(
                f"P{listed if len(listed) <= MAX_LISTED else hashlib.sha256(listed.encode()).hexdigest()[:16]}"
            )
        parts += [f"V{self.slice.vocab}"] if self.slice.vocab else []
        parts += [f"E{self.slice.experts}"] if self.slice.experts else []
        return "-".join([*parts, *(["code"] if self.remote_code else [])])


@dataclass(frozen=True)
class StorePaths:
    """The paths of the store at `root`, which need not exist."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Complete checkpoints, two levels down."""
        return self.root / "checkpoints"

    @property
    def partial(self) -> Path:
        """Running and interrupted fetches."""
        return self.root / "partial"

    @property
    def leases(self) -> Path:
        """Lease files."""
        return self.root / "leases"

    @property
    def trash(self) -> Path:
        """Directories that are being removed."""
        return self.root / "trash"

    def checkpoint_path(self, key: CheckpointKey) -> Path:
        """Return the directory of a complete checkpoint."""
        return self.checkpoints / encode_model_id(key.model_id) / key.name

    def ref_path(self, model_id: str, revision: str | None) -> Path:
        """Return the file with the last known commit of a branch or tag (None: HEAD)."""
        return self.root / "refs" / encode_model_id(model_id) / f"{quote(revision or 'HEAD', safe='')[:200]}.json"

    def layer_choice_path(self, model_id: str, commit: str) -> Path:
        """Return the file with the layers that "auto" chose."""
        return self.root / "auto" / encode_model_id(model_id) / f"{commit}-r{RULES_VERSION}.json"

    def lease_name(self, path: Path) -> str:
        """Return the name that the leases of a checkpoint or a partial directory start with."""
        return path.name if path.parent == self.partial else f"{path.parent.name}@{path.name}"

    def is_in_use(self, path: Path) -> bool:
        """Return whether a live process holds a lease of this directory."""
        timeout = FETCH_TIMEOUT if path.parent == self.partial else HOLD_TIMEOUT
        leases = self.leases.glob(f"{self.lease_name(path)}.*.lease")
        return any(lease.is_active(path, timeout=timeout) for path in leases)

    def discard(self, path: Path, *, unless_in_use: bool = False) -> bool:
        """Remove a directory: rename it into the trash, then delete it; return False when it stays.

        With `unless_in_use` it is renamed back when another process took a lease of it in the meantime.
        """
        trash = self.trash / uuid.uuid4().hex
        try:
            self.trash.mkdir(exist_ok=True)
            path.rename(trash)
        except OSError:
            return False
        if unless_in_use and self.is_in_use(path):
            with suppress(OSError):
                trash.rename(path)
                return False
        shutil.rmtree(trash, ignore_errors=True)
        return True


def encode_model_id(model_id: str) -> str:
    """Return a model id as the name of a directory."""
    return model_id.replace("/", "--")


def decode_model_id(name: str) -> str:
    """Return the model id of a directory's name; ids never contain "--" (`check_model_id`)."""
    return name.replace("--", "/")
