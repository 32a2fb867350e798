"""Repositories as the Hub keeps them: commits of files, each with its git and LFS identity."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

LFS_SIZE = 10 * 1024**2
LFS_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.model", "*.onnx", "*.h5", "*.msgpack")
"""What the Hub's default `.gitattributes` sends to LFS; above `LFS_SIZE` bytes it refuses plain git anyway."""


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit. `blob_id` is the git blob's id, for LFS that of the pointer file; bytes are in `source`."""

    path: str
    source: Path
    size: int
    sha256: str
    blob_id: str
    lfs: bool

    @property
    def etag(self) -> str:
        """What the Hub answers as (linked) ETag: the sha256 of an LFS file, the git blob id of a plain one."""
        return self.sha256 if self.lfs else self.blob_id


@dataclass(frozen=True)
class Commit:
    """A full commit id (40 hex digits, a digest of names and contents) and its files by path."""

    id: str
    files: Mapping[str, StoredFile]


@dataclass
class Repo:
    """A model repository: its commits, and its branches and tags as commit ids."""

    model_id: str
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def push(self, commit: Commit, ref: str) -> None:
        """Make `commit` the head of `ref`; what was there stays reachable by its id."""
        self.commits[commit.id] = commit
        self.refs[ref] = commit.id

    def find_commit(self, revision: str) -> Commit | None:
        """Find the commit that a branch, tag or full id names."""
        return self.commits.get(self.refs.get(revision, revision))


def make_commit(directory: Path, digests: Mapping[str, str]) -> Commit:
    """Make a commit of all files below a directory; equal contents give equal ids.

    `digests` gives the sha256 of files, by path in the repository, that are not to be read for it.
    """
    paths = {p.relative_to(directory).as_posix(): p for p in sorted(directory.rglob("*")) if p.is_file()}
    files = {path: describe_file(source, path, digests.get(path)) for path, source in paths.items()}
    listing = "".join(f"{f.blob_id} {f.path}\n" for f in files.values())
    return Commit(hashlib.sha1(listing.encode()).hexdigest(), files)


def describe_file(source: Path, path: str, known_sha256: str | None = None) -> StoredFile:
    """Describe the file at `source` under its repository `path`."""
    stat = source.stat()
    if known_sha256 is None:
        sha256, blob_id = _hash_file(source, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    else:
        sha256, blob_id = known_sha256, ""
    lfs = stat.st_size >= LFS_SIZE or any(fnmatch.fnmatchcase(path, pattern) for pattern in LFS_PATTERNS)
    if lfs:
        blob_id = git_blob_id(lfs_pointer(sha256, stat.st_size))
    return StoredFile(path, source, stat.st_size, sha256, blob_id, lfs)


def lfs_pointer(sha256: str, size: int) -> bytes:
    """Return the pointer file that git holds in place of an LFS object."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def git_blob_id(content: bytes) -> str:
    """Return git's object id of a blob with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@cache
def _hash_file(source: Path, size: int, mtime_ns: int, inode: int) -> tuple[str, str]:
    """Return the sha256 and git blob id of a file; a large file has no blob id."""
    with source.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return sha256, git_blob_id(source.read_bytes()) if size < LFS_SIZE else ""
