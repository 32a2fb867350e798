"""Where things are in a store, who uses them, and how they disappear.

    <root>/CACHEDIR.TAG
    <root>/checkpoints/<owner>--<name>/<commit>-r<rules>-L<layers>[-code]/   complete: hub-tests.json is inside
    <root>/partial/<owner>--<name>@<key>.<unique>/                            being fetched, or left by an interruption
    <root>/trash/…                                                            being removed
    <root>/leases/*.lease                                                     who uses what now
    <root>/refs/<owner>--<name>/<revision>.json                               what a branch or tag last named
    <root>/auto/<owner>--<name>/<commit>-r<rules>.json                        what `auto` came to

A checkpoint appears by one rename and disappears by one rename, so it is whole or not there. Everything in it depends
on its key alone: any machine may fetch it, any may share it, and it may be mounted read-only.
"""

from __future__ import annotations

import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ci.hub import lease
from ci.hub.manifest import RULES_VERSION

SILENCE = 600.0
"""Seconds without a beat after which a fetch counts as dead, though its process may exist (stopped, or elsewhere)."""
HOLD = 12 * 3600.0
"""Seconds for which a process may hold a checkpoint; one on this machine no longer than it lives."""


@dataclass(frozen=True)
class Key:
    """What decides every byte of a checkpoint."""

    model_id: str
    commit: str
    layers: int
    remote_code: bool = False

    @property
    def name(self) -> str:
        """The directory's name."""
        code = "-code" if self.remote_code else ""
        return f"{self.commit}-r{RULES_VERSION}-L{self.layers}{code}"


@dataclass(frozen=True)
class Places:
    """The directories of the store at `root`, which need not exist."""

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
        """Who uses what."""
        return self.root / "leases"

    @property
    def trash(self) -> Path:
        """What is being removed."""
        return self.root / "trash"

    def checkpoint(self, key: Key) -> Path:
        """Where the checkpoint of `key` is when it is complete."""
        return self.checkpoints / folder(key.model_id) / key.name

    def ref(self, model_id: str, revision: str | None) -> Path:
        """The note of what a branch or tag named; the default branch is called HEAD."""
        return self.root / "refs" / folder(model_id) / f"{quote(revision or 'HEAD', safe='')[:200]}.json"

    def auto(self, model_id: str, commit: str) -> Path:
        """The note of what `auto` came to."""
        return self.root / "auto" / folder(model_id) / f"{commit}-r{RULES_VERSION}.json"

    def lease_name(self, path: Path) -> str:
        """What the leases of a checkpoint, or of a partial directory, are called."""
        return path.name if path.parent == self.partial else f"{path.parent.name}@{path.name}"

    def is_live(self, path: Path) -> bool:
        """Whether a process holds this directory."""
        silence = SILENCE if path.parent == self.partial else HOLD
        found = self.leases.glob(f"{self.lease_name(path)}.*.lease")
        return any(lease.is_live(path, silence=silence) for path in found)

    def discard(self, path: Path, *, unless_live: bool = False) -> bool:
        """Remove a directory: out of sight by one rename, then file by file; False when it stays.

        `unless_live` puts it back when somebody took hold of it at the last moment.
        """
        trash = self.trash / uuid.uuid4().hex
        try:
            self.trash.mkdir(exist_ok=True)
            path.rename(trash)
        except OSError:
            return False
        if unless_live and self.is_live(path):
            with suppress(OSError):
                trash.rename(path)
                return False
        shutil.rmtree(trash, ignore_errors=True)
        return True


def folder(model_id: str) -> str:
    """A model's directory."""
    return model_id.replace("/", "--")
