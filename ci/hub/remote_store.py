"""A store at any place that fsspec reaches (`s3://`, `gs://`, `file://`), for machines that share no directory.

It has the layout of a local store, `<url>/checkpoints/<owner>--<name>/<key>/…`. A checkpoint is uploaded file by file,
its manifest last, so it is complete or absent; what is read goes into a local store and is hashed on its way. Who may
read or write is the place's own affair: credentials come from the machine, never from here.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ci.errors import HubTestsError, InfrastructureError
from ci.hub.checkpoint_files import find_manifest_problems, is_safe_name, show_name
from ci.hub.manifest import MANIFEST, MAX_MANIFEST, IncompatibleManifestError, Manifest, parse_manifest
from ci.hub.remote_files import WHOLE_OR_ABSENT, check_store_url, open_file_system, read_modified
from ci.hub.store_paths import CODE_MANIFEST, StorePaths, is_manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ci.hub.manifest import FileEntry
    from ci.hub.store import StoredCheckpoint
    from ci.hub.store_paths import CheckpointKey

PIECE = 16 * 1024**2
"""Bytes of one request for a part of a file."""
STREAMS = 4
"""Files that are copied at the same time."""
MANIFESTS = (f"/{MANIFEST}", f"/{CODE_MANIFEST}")


class DamagedRemoteError(InfrastructureError):
    """A file at the remote place is not what its manifest says."""


@dataclass(frozen=True)
class RemoteCheckpoint:
    """A complete checkpoint at the remote place: where, its manifest, the manifest's bytes and their SHA-256."""

    path: str
    manifest: Manifest
    content: bytes
    manifest_sha256: str


@dataclass(frozen=True)
class RemoteFileState:
    """Bytes of a file at the remote place, and when it was written: seconds since 1970 by the place's clock."""

    size: int
    modified: float


class RemoteStore:
    """The store at `url`. Raises RequestError for an address that cannot be used."""

    def __init__(self, url: str) -> None:
        self.url = check_store_url(url)
        self._protocol = urlsplit(self.url).scheme
        self._files, root = open_file_system(self.url, self._protocol)
        self._root = str(root).rstrip("/")

    def find(self, key: CheckpointKey) -> RemoteCheckpoint | None:
        """Find the complete checkpoint of `key`; an upload that did not end is none.

        Raises InfrastructureError when the place cannot be read, or lists a name that no checkpoint can have.
        """
        path = f"{self._root}/{StorePaths.relative_path(key)}"
        with self._explain("read"):
            content = self._read_manifest(f"{path}/{MANIFEST}")
            sizes = {} if content is None else self._list_sizes(path)
        if content is None:
            return None
        what = f"{self.url}: {key.model_id} {key.name}"
        try:
            manifest = parse_manifest(content, what=what)
        except IncompatibleManifestError:
            raise
        except HubTestsError:
            return None
        if any(not is_safe_name(name) for name in sizes if name != MANIFEST):
            hostile = next(name for name in sizes if name != MANIFEST and not is_safe_name(name))
            raise InfrastructureError(f"{what}: lists {show_name(hostile)}, which no checkpoint has; remove it")
        if not is_manifest_of(manifest, key) or find_manifest_problems(manifest):
            return None
        if any(sizes.get(name) != entry.size for name, entry in manifest.files.items()):
            return None
        return RemoteCheckpoint(path, manifest, content, hashlib.sha256(content).hexdigest())

    def download(self, found: RemoteCheckpoint, directory: Path, on_progress: Callable[[int, int], None]) -> None:
        """Copy a checkpoint into a directory and hash every byte; the manifest is written last.

        Raises DamagedRemoteError for other content than the manifest says.
        """
        entries = found.manifest.files
        total, done = sum(entry.size for entry in entries.values()), 0
        _remove_other_files(directory, entries)
        with self._explain("read"), ThreadPoolExecutor(STREAMS) as pool:
            for size in pool.map(lambda name: self._download_file(found, name, directory), entries):
                done += size
                on_progress(done, total)
        _write_file(directory / MANIFEST, iter((found.content,)))

    def upload(self, key: CheckpointKey, stored: StoredCheckpoint) -> None:
        """Copy a verified checkpoint to the remote place, its manifest last.

        Two that write the same key write the same bytes, so neither needs to wait for the other.
        """
        path = f"{self._root}/{StorePaths.relative_path(key)}"
        files = stored.manifest.files
        with self._explain("written"):
            with ThreadPoolExecutor(STREAMS) as pool:
                list(pool.map(lambda name: self._put(stored.path / name, f"{path}/{name}"), files))
            present = self._list_sizes(path)
            if missing := [name for name in files if present.get(name) != files[name].size]:
                raise InfrastructureError(f"{self.url}: {missing[0]} was not kept as it was written; check the place")
            self._put(stored.path / MANIFEST, f"{path}/{MANIFEST}")

    def renew(self, key: CheckpointKey, stored: StoredCheckpoint) -> None:
        """Write the manifest of a complete checkpoint again: its time says when it was last fetched."""
        with self._explain("written"):
            self._put(stored.path / MANIFEST, f"{self._root}/{StorePaths.relative_path(key)}/{MANIFEST}")

    def list_files(self, folder: str = "checkpoints") -> dict[str, RemoteFileState]:
        """List every file of the checkpoints, or of another folder, by its path below it."""
        root = f"{self._root}/{folder}"
        with self._explain("listed"):
            try:
                listed = self._files.find(root, detail=True)
            except FileNotFoundError:
                return {}
            return {
                str(path)[len(root) + 1 :]: RemoteFileState(int(details["size"]), read_modified(details))
                for path, details in listed.items()
            }

    def read_clock(self) -> float:
        """Return the place's time in seconds since 1970: that of a small file, which is removed again."""
        path = f"{self._root}/clock-{uuid.uuid4().hex[:8]}"
        with self._explain("written"):
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(path, b"{}")
            try:
                return read_modified(self._files.info(path))
            finally:
                self._files.rm_file(path)

    def remove(self, address: str) -> None:
        """Remove a checkpoint or code, its manifest first: what is left in part is neither."""
        path = self._root + address.removeprefix(self.url)
        with self._explain("written"):
            files = self._files.find(path)
            for file in sorted(files, key=lambda name: not str(name).endswith(MANIFESTS)):
                self._files.rm_file(file)
            if self._protocol not in WHOLE_OR_ABSENT:
                self._files.rm(path, recursive=True)

    def _read_manifest(self, path: str) -> bytes | None:
        try:
            size = int(self._files.info(path)["size"])
            if size > MAX_MANIFEST:
                raise InfrastructureError(f"{self.url}: a manifest of {size} bytes, at most {MAX_MANIFEST} are read")
            return bytes(self._files.cat_file(path))
        except FileNotFoundError:
            return None

    def _list_sizes(self, path: str) -> dict[str, int]:
        """List the files below a path by their names relative to it."""
        listed = self._files.find(path, detail=True)
        return {str(name)[len(path) + 1 :]: int(details["size"]) for name, details in listed.items()}

    def _download_file(self, found: RemoteCheckpoint, name: str, directory: Path) -> int:
        entry, target = found.manifest.files[name], directory / name
        if target.is_file() and target.stat().st_size == entry.size and _hash_file(target) == entry.sha256:
            return entry.size  # an interrupted copy
        digest = _write_file(target, self._iter_pieces(f"{found.path}/{name}", entry.size))
        if target.stat().st_size != entry.size or digest != entry.sha256:
            target.unlink()
            raise DamagedRemoteError(f"{self.url}: {found.path}: {name} has other content than its manifest says")
        return entry.size

    def _iter_pieces(self, path: str, size: int) -> Iterator[bytes]:
        for begin in range(0, size, PIECE):
            yield self._files.cat_file(path, start=begin, end=min(begin + PIECE, size))

    def _put(self, source: Path, target: str) -> None:
        """Write a file so that it appears whole, also where another one is."""
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        if self._protocol in WHOLE_OR_ABSENT:
            self._files.put_file(os.fspath(source), target)
            return
        draft = f"{target}.{uuid.uuid4().hex[:8]}.part"
        self._files.put_file(os.fspath(source), draft)
        self._files.mv(draft, target)

    @contextmanager
    def _explain(self, verb: str) -> Iterator[None]:
        """Turn whatever a file system's package raises into one line."""
        try:
            yield
        except HubTestsError:
            raise
        except Exception as error:  # each package has exceptions of its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise InfrastructureError(
                f"{self.url}: cannot be {verb}: {reason}; check the address and this machine's identity there"
            ) from None


def _write_file(path: Path, pieces: Iterator[bytes]) -> str:
    """Write a file from its pieces, and return the SHA-256 of what was written in hex."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_other_files(directory: Path, entries: Mapping[str, FileEntry]) -> None:
    """Remove what an interrupted fetch left in a directory and the manifest does not name."""
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # it holds named files
                path.rmdir()
        elif path.is_symlink() or path.relative_to(directory).as_posix() not in entries:
            path.unlink()
