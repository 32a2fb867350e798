"""`hub-tests.json`: the content of a truncated checkpoint, tensor by tensor and file by file.

It names no times and no machines, so that every machine that fetches the same key writes the same bytes. Its SHA-256
alone proves that another machine holds the same checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ci.errors import InfrastructureError
from ci.hub.slices import WHOLE, Slice
from ci.records import STRICT, read_json, to_json

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "hub-tests.json"
SCHEMA = 1
RULES_VERSION = 4
"""Increases with every change to what is kept, how config.json is edited or how files are written."""


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 in hex; None where the Hub lists none."""

    __pydantic_config__: ClassVar[Any] = STRICT

    size: int
    sha256: str | None


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: the file that holds it and the SHA-256 of its bytes.

    On the Hub it is bytes [begin, end) of the file `source`; None where that file is not a safetensors file.
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

    `layers` of `layers_upstream` are kept. `sources` are the upstream files that tensors come from, with the digests of
    the Hub's listing. `files` are the directory's own, except this one. `notes` are lines for people. `dropped` names
    the modules whose tensors were left out although they are in no dropped layer. `picked` are the upstream indices of
    chosen layers, empty where the first ones are kept; `slice` is the kept part of vocabulary and experts.
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
    dropped: tuple[str, ...] = ()
    picked: tuple[int, ...] = ()
    slice: Slice = WHOLE


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the text of `hub-tests.json`."""
    return (to_json(manifest, indent=1) + "\n").encode()


def read_manifest(directory: Path) -> tuple[Manifest, str]:
    """Return a directory's manifest and its SHA-256. Raises InfrastructureError when it cannot be read."""
    path = directory / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be read: {error.strerror}") from None
    manifest = read_json(Manifest, content, what=str(path), error=InfrastructureError)
    if manifest.schema != SCHEMA:
        raise InfrastructureError(
            f"{path}: schema {manifest.schema}, this version of hub-tests reads {SCHEMA}; fetch it again"
        )
    return manifest, hashlib.sha256(content).hexdigest()


def find_size_problems(directory: Path, manifest: Manifest) -> list[str]:
    """List files that are missing or have another size, without reading them."""
    problems = []
    for name, entry in manifest.files.items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != entry.size:
            problems.append(f"{name} has {path.stat().st_size} bytes instead of {entry.size}")
    return problems


def find_content_problems(directory: Path, manifest: Manifest) -> list[str]:
    """List the size problems, then every file with other content than the manifest says."""
    problems = find_size_problems(directory, manifest)
    for name, entry in manifest.files.items():
        path = directory / name
        if path.is_file() and path.stat().st_size == entry.size and _hash_file(path) != entry.sha256:
            problems.append(f"{name} has other content than when it was fetched")
    return problems


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
