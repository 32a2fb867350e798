"""`hub-tests.json`: what a truncated checkpoint is, tensor by tensor and file by file.

It holds nothing but content (no times, no hosts), so that every machine that fetches the same key writes the same
bytes, and its SHA-256 alone lets another machine prove that it holds the same checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ci.errors import InfrastructureError
from ci.records import STRICT, read_json, to_json

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "hub-tests.json"
SCHEMA = 1
RULES_VERSION = 2
"""Goes up with every change to what is kept, how config.json is edited or how files are written."""
READ = 1024**2


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256, in hex; None where upstream gives none."""

    __pydantic_config__: ClassVar[Any] = STRICT

    size: int
    sha256: str | None


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: `file` holds it, its bytes have `sha256`.

    Upstream they are bytes [begin, end) of the file `source`; None where that file is no safetensors file.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    file: str
    source: str
    begin: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Manifest:
    """The whole of `hub-tests.json`.

    `layers` of `layers_upstream` are kept; `sources` are the upstream files that tensors come from, with the digests
    that upstream's listing claims; `files` are the directory's own, without this one. `notes` are lines for people.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    schema: int
    model_id: str
    commit: str
    rules: int
    layers: int
    layers_upstream: int
    remote_code: bool
    bytes_kept: int
    sources: Mapping[str, FileEntry]
    tensors: Mapping[str, TensorEntry]
    files: Mapping[str, FileEntry]
    notes: tuple[str, ...] = ()


def to_bytes(manifest: Manifest) -> bytes:
    """The text of `hub-tests.json`."""
    return (to_json(manifest, indent=1) + "\n").encode()


def read_manifest(directory: Path) -> tuple[Manifest, str]:
    """The directory's manifest and its SHA-256. Raises InfrastructureError when there is none to read."""
    path = directory / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be read: {error.strerror}") from None
    manifest = read_json(Manifest, content, what=str(path), error=InfrastructureError)
    if manifest.schema != SCHEMA:
        raise InfrastructureError(f"{path}: schema {manifest.schema}, this hub-tests reads {SCHEMA}")
    return manifest, hashlib.sha256(content).hexdigest()


def size_problems(directory: Path, manifest: Manifest) -> list[str]:
    """Files that are missing or have another size: all that can be seen without reading them."""
    problems = []
    for name, entry in manifest.files.items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != entry.size:
            problems.append(f"{name} has {path.stat().st_size} bytes instead of {entry.size}")
    return problems


def content_problems(directory: Path, manifest: Manifest) -> list[str]:
    """What `size_problems` sees, then every file whose content is not what the manifest says."""
    problems = size_problems(directory, manifest)
    for name, entry in manifest.files.items():
        path = directory / name
        if path.is_file() and path.stat().st_size == entry.size and _digest(path) != entry.sha256:
            problems.append(f"{name} has other content than when it was fetched")
    return problems


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
