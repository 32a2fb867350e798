"""The layout of a store, which directories are in use, and how a directory is removed.

    <root>/CACHEDIR.TAG
    <root>/checkpoints/<owner>--<name>/<commit>-r<rules>-L<layers>[-P…][-V…][-E…][-code]/
                                                                              complete: hub-tests.json is inside
    <root>/partial/<owner>--<name>@<key>.<unique>/                            of a running or interrupted fetch
    <root>/quarantine/<owner>--<name>@<key>.<unique>/                         damaged, kept to find the cause
    <root>/trash/…                                                            being removed
    <root>/leases/*.lease                                                     which process or run uses what
    <root>/leaving/<owner>--<name>@<key>.json                                 announced by `prune`, see `ci.hub.prune`
    <root>/verified/<owner>--<name>@<key>.json                                hashed before, see `ci.hub.verified`
    <root>/refs/<owner>--<name>/<revision>.json                               the last known commit of a branch or tag
    <root>/auto/<owner>--<name>/<commit>-r<rules>.json                        the layers that "auto" chose
    <root>/code/<owner>--<name>/<commit>/                                     its own code, see `ci.hub.code_files`

A checkpoint appears by one rename and disappears by one rename, so it is complete or absent. Its content depends on its
key alone: any machine may fetch it, machines may share it, and the store may be mounted read-only.
"""

from __future__ import annotations

import glob
import re
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ci.errors import RequestError
from ci.hub import lease
from ci.hub.config_numbers import MAX_LAYERS
from ci.hub.manifest import MANIFEST, RULES_VERSION, Manifest
from ci.hub.slices import WHOLE, Slice

CODE_MANIFEST = "hub-tests-code.json"
"""The file beside a model's own code that names each of its files."""
FETCH_TIMEOUT = 600.0
"""Seconds without a renewed lease after which a fetch on this machine counts as dead, because it was stopped."""
FETCH_SILENCE = 30.0
"""The same for a fetch on another machine, which renews its lease every `lease.HEARTBEAT` seconds."""
HOLD_TIMEOUT = 12 * 3600.0
"""Seconds for which a process may hold a checkpoint without renewal; on this machine at most as long as it lives."""
HOLD_SILENCE = 600.0
"""The same for a process on another machine; nobody waits for its end, only `prune` asks."""


_CHECKPOINT_NAME = re.compile(
    r"(?P<model>[^@]+)@(?P<commit>[0-9a-f]{40})-r(?P<rules>\d{1,9})-L(?P<layers>\d{1,9})"
    r"(?:-P(?P<picked>\d{1,9}(?:[_~]\d{1,9})*))?(?:-V(?P<vocab>\d{1,9}))?(?:-E(?P<experts>\d{1,9}))?"
)
MAX_PICKED = 120
"""Characters of chosen layers in a directory's name."""


@dataclass(frozen=True)
class CheckpointKey:
    """The values that decide every byte of a checkpoint, together with RULES_VERSION.

    `picked` are the indices of chosen layers; empty where the first ones are kept.
    """

    model_id: str
    commit: str
    layers: int
    picked: tuple[int, ...] = ()
    slice: Slice = WHOLE

    @property
    def name(self) -> str:
        """Name of the checkpoint's directory."""
        parts = [f"{self.commit}-r{RULES_VERSION}-L{self.layers}"]
        parts += [f"P{format_picked(self.picked)}"] if self.picked else []
        parts += [f"V{self.slice.vocab}"] if self.slice.vocab else []
        parts += [f"E{self.slice.experts}"] if self.slice.experts else []
        return "-".join(parts)


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
    def quarantine(self) -> Path:
        """Damaged checkpoints, out of reach of every reader."""
        return self.root / "quarantine"

    @property
    def leaving(self) -> Path:
        """Announcements of what `prune` will remove."""
        return self.root / "leaving"

    @property
    def verified(self) -> Path:
        """Records of files that were hashed."""
        return self.root / "verified"

    @property
    def code(self) -> Path:
        """The Python files of models that bring their own code, two levels down."""
        return self.root / "code"

    @property
    def trash(self) -> Path:
        """Directories that are being removed."""
        return self.root / "trash"

    @staticmethod
    def relative_path(key: CheckpointKey) -> str:
        """Return where a checkpoint is within any store."""
        return f"checkpoints/{encode_model_id(key.model_id)}/{key.name}"

    @staticmethod
    def relative_code_path(model_id: str, commit: str) -> str:
        """Return where a model's own code is within any store."""
        return f"code/{encode_model_id(model_id)}/{commit}"

    def code_path(self, model_id: str, commit: str) -> Path:
        """Return the directory of a model's own code."""
        return self.root / self.relative_code_path(model_id, commit)

    def manifest_path(self, path: Path) -> Path:
        """Return the manifest of a checkpoint, or of a model's code: its time is that of the last use."""
        return path / (CODE_MANIFEST if path.parent.parent == self.code else MANIFEST)

    def checkpoint_path(self, key: CheckpointKey) -> Path:
        """Return the directory of a complete checkpoint."""
        return self.root / self.relative_path(key)

    def ref_path(self, model_id: str, revision: str | None) -> Path:
        """Return the file with the last known commit of a branch or tag (None: HEAD)."""
        return self.root / "refs" / encode_model_id(model_id) / f"{quote(revision or 'HEAD', safe='')[:200]}.json"

    def layer_choice_path(self, model_id: str, commit: str) -> Path:
        """Return the file with the layers that "auto" chose."""
        return self.root / "auto" / encode_model_id(model_id) / f"{commit}-r{RULES_VERSION}.json"

    def lease_name(self, path: Path) -> str:
        """Return the name that the leases of a checkpoint or a partial directory start with."""
        return path.name if path.parent in (self.partial, self.quarantine) else f"{path.parent.name}@{path.name}"

    def find_holder(self, path: Path) -> str | None:
        """Return who holds a lease of this directory, None for nobody."""
        partial = path.parent == self.partial
        timeout, silence = (FETCH_TIMEOUT, FETCH_SILENCE) if partial else (HOLD_TIMEOUT, HOLD_SILENCE)
        holders = (
            lease.find_holder(found, timeout=timeout, silence=silence)
            for found in self.leases.glob(f"{glob.escape(self.lease_name(path))}.*.lease")
        )
        return next((holder for holder in holders if holder), None)

    def is_in_use(self, path: Path) -> bool:
        """Return whether a live process, or a run, holds a lease of this directory."""
        return self.find_holder(path) is not None

    def announcement_path(self, path: Path) -> Path:
        """Return the file that announces the removal of a checkpoint."""
        return self.leaving / f"{self.lease_name(path)}.json"

    def verified_path(self, path: Path) -> Path:
        """Return the file that says when a checkpoint was hashed."""
        return self.verified / f"{self.lease_name(path)}.json"

    def set_aside(self, path: Path, inode: int) -> Path | None:
        """Rename a damaged checkpoint into the quarantine; return its new path, None when it stays.

        `inode` is its directory's when the damage was seen: another process may have replaced it since.
        """
        target = self.quarantine / f"{self.lease_name(path)}.{uuid.uuid4().hex[:8]}"
        try:
            self.quarantine.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        except OSError:
            return None
        if target.lstat().st_ino != inode:
            with suppress(OSError):
                target.rename(path)
                return None
        return target

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


def is_manifest_of(manifest: Manifest, key: CheckpointKey) -> bool:
    """Return whether a manifest is of `key`, made by the rules of this version."""
    m = manifest
    made = CheckpointKey(m.model_id, m.commit, m.layers, m.picked, m.slice)
    return made == key and m.rules == RULES_VERSION


def parse_checkpoint_name(name: str) -> tuple[CheckpointKey, int] | None:
    """Return the key and the rules of a name `<owner>--<name>@<key>`; None for what no version named."""
    match = _CHECKPOINT_NAME.fullmatch(name)
    if match is None:
        return None
    part = Slice(int(match["vocab"] or 0) or None, int(match["experts"] or 0) or None)
    picked = parse_picked(match["picked"] or "")
    model, commit, layers = decode_model_id(match["model"]), match["commit"], int(match["layers"])
    return CheckpointKey(model, commit, layers, picked, part), int(match["rules"])


def format_picked(layers: tuple[int, ...]) -> str:
    """Format chosen layers, in order, for a name: `0_3~5` for 0, 3, 4, 5.

    Raises RequestError where they do not fit into the name of a directory.
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    listed = "_".join(f"{run[0]}~{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    if len(listed) > MAX_PICKED:
        raise RequestError(f"layers {str(layers)[:60]}…: choose fewer separate layers; their list names a directory")
    return listed


def parse_picked(text: str) -> tuple[int, ...]:
    """Read what `format_picked` wrote; a run of more than a few thousand layers is none."""
    layers: list[int] = []
    for run in filter(None, text.split("_")):
        first, _, last = run.partition("~")
        if int(last or first) - int(first) > MAX_LAYERS:
            return ()
        layers += range(int(first), int(last or first) + 1)
    return tuple(layers)


def encode_model_id(model_id: str) -> str:
    """Return a model id as the name of a directory."""
    return model_id.replace("/", "--")


def decode_model_id(name: str) -> str:
    """Return the model id of a directory's name; ids never contain "--" (`check_model_id`)."""
    return name.replace("--", "/")
