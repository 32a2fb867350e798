"""Compare a directory with its manifest: exactly the named files, each of its size and content.

A file, link or directory that the manifest does not name is a problem too: a loader might prefer it to a named one.
"""

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ci.hub.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from ci.hub.manifest import FileEntry, Manifest

HASH_THREADS = 4
"""Files that are hashed at the same time; hashlib works outside of the interpreter's lock."""
MAX_NAME = 255
"""Bytes of one name in a path (NAME_MAX of Linux's file systems)."""
WEIGHTS = ".safetensors"
KINDS = {stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFREG: "file"}


def find_size_problems(directory: Path, manifest: Manifest) -> list[str]:
    """List where a directory differs from its manifest by names, kinds and sizes, without reading files."""
    if problems := find_manifest_problems(manifest):
        return problems
    if directory.is_symlink():
        return ["the checkpoint's directory is a link"]
    present = dict(_iter_entries(directory, "", _list_parents(manifest.files)))
    problems = [
        f"{show_name(name)} is a {_describe_kind(status)} that the manifest does not name"
        for name, status in present.items()
        if name not in manifest.files and (name != MANIFEST or not stat.S_ISREG(status.st_mode))
    ]
    for name, entry in manifest.files.items():
        problems += _compare_status(name, entry, present.get(name))
    return problems


def find_content_problems(directory: Path, manifest: Manifest) -> list[str]:
    """List the size problems, then every file with other content than the manifest says."""
    problems = find_size_problems(directory, manifest)
    if problems:
        return problems
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        digests = pool.map(lambda name: _hash_file(directory / name), manifest.files)
        return [
            f"{show_name(name)} has other content than when it was fetched"
            for (name, entry), digest in zip(manifest.files.items(), digests, strict=True)
            if digest != entry.sha256
        ]


def find_manifest_problems(manifest: Manifest) -> list[str]:
    """List what makes a manifest unusable: unsafe names, files without digest, or no weights."""
    files = manifest.files
    problems = [f"the manifest names {show_name(name)}, which is unsafe" for name in files if not is_safe_name(name)]
    problems += [f"the manifest has no sha256 of {show_name(name)}" for name in files if files[name].sha256 is None]
    tensor_files = {tensor.file for tensor in manifest.tensors.values()}
    if not tensor_files:
        problems.append("the manifest names no weights")
    weights = {name for name in files if name.endswith(WEIGHTS)}
    problems += [f"the manifest names no tensor of {show_name(name)}" for name in sorted(weights - tensor_files)]
    missing = sorted(tensor_files - set(files))
    return problems + [f"the manifest has tensors in {show_name(name)}, which it does not name" for name in missing]


def is_safe_name(name: str) -> bool:
    """Return whether a name is a plain relative path that stays below its directory."""
    parts = name.split("/")
    return (
        name.isprintable()
        and "\\" not in name
        and name != MANIFEST
        and all(part not in ("", ".", "..") and len(os.fsencode(part)) <= MAX_NAME for part in parts)
    )


def show_name(name: str) -> str:
    """Return a name for a message: escaped unless it is printable, and cut to 200 characters."""
    return (name if name.isprintable() and name else ascii(name))[:200]


def _iter_entries(directory: Path, prefix: str, parents: Collection[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a directory but the `parents` of named files, which are walked into."""
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = prefix + entry.name
            if name in parents and entry.is_dir(follow_symlinks=False):
                yield from _iter_entries(directory / entry.name, f"{name}/", parents)
            else:
                yield name, entry.stat(follow_symlinks=False)


def _list_parents(files: Mapping[str, FileEntry]) -> frozenset[str]:
    parts = (name.split("/")[:-1] for name in files)
    return frozenset("/".join(some[:depth]) for some in parts for depth in range(1, len(some) + 1))


def _compare_status(name: str, entry: FileEntry, status: os.stat_result | None) -> list[str]:
    if status is None:
        return [f"{show_name(name)} is missing"]
    if not stat.S_ISREG(status.st_mode):
        return [f"{show_name(name)} is a {_describe_kind(status)} instead of a file"]
    if status.st_size != entry.size:
        return [f"{show_name(name)} has {status.st_size} bytes instead of {entry.size}"]
    return []


def _describe_kind(status: os.stat_result) -> str:
    return KINDS.get(stat.S_IFMT(status.st_mode), "special file")


def _hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex, without following a link."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:  # noqa: PTH123 -- of a descriptor
        return hashlib.file_digest(file, "sha256").hexdigest()
