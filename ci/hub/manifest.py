"""`hub-tests.json`: the content of a truncated checkpoint, tensor by tensor and file by file.

It names no times and no machines, so that every machine that fetches the same key writes the same bytes. Its SHA-256
alone proves that another machine holds the same checkpoint.

Versions of the service share a store: a newer one may add keys, which are ignored here. A change that an older version
must not ignore increases SCHEMA, and that version then refuses the checkpoint and leaves it alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from ci.hub.slices import WHOLE, Slice
from ci.records import read_json, to_json

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "hub-tests.json"
SCHEMA = 1
RULES_VERSION = 6
"""Increases with every change to what is kept, how config.json is edited or how files are written."""

MAX_MANIFEST = 512 * 1024**2
"""Bytes. 89,000 tensors, the most of any repository tried, take some 35 MB."""


class IncompatibleManifestError(InfrastructureError):
    """A checkpoint of a newer hub-tests: neither damaged nor usable here."""


@dataclass(frozen=True)
class _Schema:
    schema: int


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 in hex; None where the Hub lists none."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: the file that holds it and the SHA-256 of its bytes.

    On the Hub it is bytes [begin, end) of the file `source`; None where that file is not a safetensors file.
    """

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
    the Hub's listing. `files` are the directory's own, except this one. `notes` are lines for people. The bytes from
    the sources in `not_verified_upstream` were compared with no digest of the Hub, because it publishes none for parts.
    `dropped` names the modules whose tensors were left out although they are in no dropped layer. `picked` are the
    upstream indices of chosen layers, empty where the first ones are kept; `slice` is the kept part of vocabulary and
    experts.
    """

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
    not_verified_upstream: tuple[str, ...] = ()
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
        content = read_limited(path)
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_manifest(content, what=str(path)), hashlib.sha256(content).hexdigest()


def parse_manifest(content: bytes, *, what: str) -> Manifest:
    """Return the manifest in `content`.

    Raises IncompatibleManifestError for a newer format, InfrastructureError for any other text.
    """
    schema = read_json(_Schema, content, what=what, error=InfrastructureError).schema
    if schema > SCHEMA:
        raise IncompatibleManifestError(
            f"{what}: written by a newer hub-tests (schema {schema}, this version of hub-tests reads {SCHEMA}); "
            "update hub-tests here, or give it another store with HUB_TESTS_CACHE or --cache"
        )
    if schema != SCHEMA:
        raise InfrastructureError(f"{what}: schema {schema}, this version of hub-tests reads {SCHEMA}; fetch it again")
    return read_json(Manifest, content, what=what, error=InfrastructureError)


def read_limited(path: Path) -> bytes:
    """Read a file that must be regular and at most MAX_MANIFEST bytes. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:  # noqa: PTH123 -- of a descriptor
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        content = file.read(MAX_MANIFEST + 1)
    if len(content) > MAX_MANIFEST:
        raise OSError(errno.EFBIG, f"more than {MAX_MANIFEST} bytes")
    return content
