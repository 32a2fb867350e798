"""The content-keyed store of truncated checkpoints on disk.

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

import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from ci.errors import HubTestsError, InfrastructureError
from ci.hub import lease
from ci.hub.layers import Auto
from ci.hub.manifest import MANIFEST, RULES_VERSION, Manifest, content_problems, read_manifest, size_problems
from ci.records import read_json, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Checkpoints that hub-tests fetched; it fetches them again.\n"
"""Tells backup tools to pass by (https://bford.info/cachedir/)."""
SILENCE = 90.0
"""Seconds without a beat after which a fetch counts as dead, though its process may exist (stopped, or elsewhere)."""
HOLD = 12 * 3600.0
"""Seconds for which a process may hold a checkpoint; one on this machine no longer than it lives."""
STALE = 3 * 24 * 3600.0
"""Seconds after which nobody is expected to come back for the parts of an interrupted fetch."""
MARGIN = 64 * 1024**2
"""Bytes of disk that a fetch leaves free for others."""


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


State = Literal["complete", "damaged", "partial", "removed"]


@dataclass(frozen=True)
class Entry:
    """One directory of the store. `bytes` on disk, `last_used` in seconds since 1970.

    `state` is "complete", "damaged" (`problems` says how), "partial" (a running or interrupted fetch) or "removed" (by
    pruning, just now). `in_use` says that a live process holds it.
    """

    model_id: str
    revision: str
    layers: int
    path: str
    bytes: int
    state: State
    last_used: float
    in_use: bool
    problems: tuple[str, ...] = ()


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
        self._checkpoints = root / "checkpoints"
        self._partial = root / "partial"
        self._leases = root / "leases"
        self._trash = root / "trash"

    def path(self, key: Key) -> Path:
        """Where the checkpoint of `key` is when it is complete."""
        return self._checkpoints / _folder(key.model_id) / key.name

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
            self._leases.mkdir(parents=True, exist_ok=True)
            name = f"{path.parent.name}@{path.name}"
            lease.drop_dead(self._leases, f"{name}.*", silence=HOLD)
            lease.take(self._leases, name)
            os.utime(path / MANIFEST)

    def ref(self, model_id: str, revision: str | None) -> str | None:
        """The commit that a branch or tag named when it was last asked for."""
        with suppress(OSError, HubTestsError):
            path = self._ref_path(model_id, revision)
            return read_json(_Ref, path.read_bytes(), what=str(path)).commit
        return None

    def remember_ref(self, model_id: str, revision: str | None, commit: str) -> None:
        """Note what a branch or tag names now, for when the Hub cannot be asked."""
        self._note(self._ref_path(model_id, revision), to_json(_Ref(commit)))

    def auto(self, model_id: str, commit: str) -> Auto | None:
        """What `auto` came to for this commit, if it was ever asked for."""
        with suppress(OSError, HubTestsError):
            path = self._auto_path(model_id, commit)
            return read_json(Auto, path.read_bytes(), what=str(path))
        return None

    def remember_auto(self, model_id: str, commit: str, auto: Auto) -> None:
        """Note what `auto` comes to, so that the next fetch need not ask for headers."""
        self._note(self._auto_path(model_id, commit), to_json(auto))

    def prepare(self) -> None:
        """Make the store's directories; InfrastructureError when that cannot be."""
        try:
            for path in (self._checkpoints, self._partial, self._leases, self._trash):
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
        name = f"{_folder(key.model_id)}@{key.name}"
        mine = self._partial / f"{name}.{uuid.uuid4().hex[:8]}"
        try:
            left = [path for path in self._partial.glob(f"{name}.*") if path.is_dir()]
            if any(self._is_live(path) for path in left):
                return None
            held = lease.take(self._leases, mine.name)
            for path in left:
                with suppress(OSError):  # another process was faster
                    path.rename(mine)
                    return Partial(mine, held)
            mine.mkdir()
        except OSError as error:
            raise unwritable(self._partial, error) from None
        return Partial(mine, held)

    def finish(self, key: Key, partial: Partial) -> Path:
        """Make a directory with a manifest the checkpoint of `key`; one that another process finished first stays."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.find(key) is None and path.exists():
            self._discard(path)
        try:
            _sync(partial.path)
            partial.path.rename(path)
            _sync(path.parent)
        except OSError:
            if self.find(key) is None:
                raise
            self._discard(partial.path)
        partial.lease.end()
        return path

    def abandon(self, partial: Partial, *, keep: bool) -> None:
        """Stop fetching: the parts stay for the next fetch if `keep`, else nothing does."""
        if not keep:
            self._discard(partial.path)
        partial.lease.end()

    def entries(self) -> tuple[Entry, ...]:
        """Everything in the store, without reading contents: checkpoints, damaged ones and parts, by path."""
        complete = [self._entry(path, size_problems) for path in sorted(self._checkpoints.glob("*/*")) if path.is_dir()]
        partial = [self._entry(path, None) for path in sorted(self._partial.glob("*")) if path.is_dir()]
        return (*complete, *partial)

    def verify(self) -> tuple[Entry, ...]:
        """The checkpoints, each read whole and compared with its manifest."""
        paths = [path for path in sorted(self._checkpoints.glob("*/*")) if path.is_dir()]
        return tuple(self._entry(path, content_problems) for path in paths)

    def prune(self, max_bytes: int | None = None) -> tuple[Entry, ...]:
        """Remove the parts that nobody will come back for, then what was used longest ago, until `max_bytes` suffice.

        What a live process uses is never removed. Gives all entries, with state "removed" where they are.
        """
        entries = sorted(self.entries(), key=lambda entry: (entry.state == "complete", entry.last_used))
        total = sum(entry.bytes for entry in entries)
        after = []
        for entry in entries:
            stale = entry.state == "partial" and time.time() - entry.last_used > STALE
            over = max_bytes is not None and total > max_bytes
            if (stale or over) and not entry.in_use and self._discard(Path(entry.path)):
                total -= entry.bytes
                after.append(replace(entry, state="removed"))
            else:
                after.append(entry)
        lease.drop_dead(self._leases, "*", silence=HOLD)
        for path in self._trash.glob("*"):
            shutil.rmtree(path, ignore_errors=True)
        return tuple(after)

    def _entry(self, path: Path, check: Callable[[Path, Manifest], list[str]] | None) -> Entry:
        partial = path.parent == self._partial
        folder, _, name = path.stem.partition("@") if partial else (path.parent.name, "", path.name)
        commit, _, rest = name.partition("-r")
        layers = rest.partition("-L")[2].removesuffix("-code")
        problems = _problems(path, check) if check else ()
        return Entry(
            model_id=folder.replace("--", "/"),
            revision=commit,
            layers=int(layers) if layers.isdecimal() else 0,
            path=str(path),
            bytes=sum(status.st_blocks * 512 for status in _statuses(path)),
            state="partial" if partial else "damaged" if problems else "complete",
            last_used=_last_used(path),
            in_use=self._is_live(path),
            problems=problems,
        )

    def _is_live(self, path: Path) -> bool:
        partial = path.parent == self._partial
        name = path.name if partial else f"{path.parent.name}@{path.name}"
        silence = SILENCE if partial else HOLD
        return any(lease.is_live(found, silence=silence) for found in self._leases.glob(f"{name}.*.lease"))

    def _discard(self, path: Path) -> bool:
        """Remove a directory: out of sight by one rename, then file by file."""
        trash = self._trash / uuid.uuid4().hex
        try:
            self._trash.mkdir(exist_ok=True)
            path.rename(trash)
        except OSError:
            return False
        shutil.rmtree(trash, ignore_errors=True)
        return True

    def _ref_path(self, model_id: str, revision: str | None) -> Path:
        return self.root / "refs" / _folder(model_id) / f"{quote(revision or 'HEAD', safe='')[:200]}.json"

    def _auto_path(self, model_id: str, commit: str) -> Path:
        return self.root / "auto" / _folder(model_id) / f"{commit}-r{RULES_VERSION}.json"

    def _note(self, path: Path, text: str) -> None:
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


def _folder(model_id: str) -> str:
    return model_id.replace("/", "--")


def _problems(path: Path, check: Callable[[Path, Manifest], list[str]]) -> tuple[str, ...]:
    try:
        return tuple(check(path, read_manifest(path)[0]))
    except HubTestsError as problem:
        return (str(problem),)


def _statuses(path: Path) -> Iterator[os.stat_result]:
    for found in path.rglob("*"):
        with suppress(OSError):
            yield found.lstat()


def _last_used(path: Path) -> float:
    """When a checkpoint was last fetched or found: its manifest's time; of parts, the newest file's."""
    with suppress(OSError):
        return (path / MANIFEST).stat().st_mtime
    return max((status.st_mtime for status in _statuses(path)), default=0.0)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
