"""The files of a Hub repository at one commit, from the Hub's listing: paths are not trusted, sizes are claims."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ci.errors import InfrastructureError, RequestError
from ci.hub.strict_json import parse_object

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MODEL_ID = re.compile(r"(?:[\w-][\w.-]{0,95}/)?[\w-][\w.-]{0,95}", re.ASCII)
MAX_FILE_SIZE = 2**50


@dataclass(frozen=True)
class RemoteFile:
    """A listed file. `sha256` is the digest of a file in LFS; `blob_id` is the git blob id of any other."""

    path: str
    size: int
    blob_id: str | None = None
    sha256: str | None = None

    def matches(self, content: bytes) -> bool:
        """Return whether `content` has the size and digest of the listing."""
        if len(content) != self.size:
            return False
        if self.sha256:
            return hashlib.sha256(content).hexdigest() == self.sha256
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return self.blob_id is None or blob.hexdigest() == self.blob_id


@dataclass(frozen=True)
class Repository:
    """A model at one full commit, with its files by path.

    `renamed_to` is the model's id on the Hub where that is another one today.
    """

    model_id: str
    commit: str
    files: Mapping[str, RemoteFile]
    renamed_to: str | None = None

    @property
    def hub_id(self) -> str:
        """The model's id in URLs."""
        return self.renamed_to or self.model_id

    def label(self, path: str) -> str:
        """Return the name of a file for messages."""
        return f"{self.model_id}@{self.commit[:8]} {path}"

    def get_file(self, path: str) -> RemoteFile:
        """Return a listed file. Raises InfrastructureError when the repository lacks it."""
        if path not in self.files:
            raise InfrastructureError(
                f"{self.label(path[:200])}: the repository has no such file; choose a complete model repository"
            )
        return self.files[path]


def check_model_id(model_id: str) -> str:
    """Return a valid model id, `owner/name` or (oldest models) `name`.

    Raises RequestError for any other text.
    """
    if not MODEL_ID.fullmatch(model_id) or ".." in model_id or "--" in model_id:
        raise RequestError(f"{model_id[:200]!r} is not a Hub model id: expected 'owner/name'")
    return model_id


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is a full commit id, which names the same files for ever."""
    return revision is not None and COMMIT.fullmatch(revision) is not None


def is_safe_path(path: str) -> bool:
    """Return whether `path` is a plain relative path that stays inside its root."""
    parts = PurePosixPath(path).parts
    unusual = any(char in "\\:" or ord(char) < 32 for char in path) or len(path) > 500
    return bool(parts) and "/".join(parts) == path and ".." not in parts and parts[0] != "/" and not unusual


def parse_repository(body: bytes, model_id: str, *, what: str) -> Repository:
    """Parse the answer of `/api/models/{id}/revision/{revision}?blobs=true`.

    Source: https://huggingface.co/docs/hub/api. Raises InfrastructureError for a malformed answer.
    """
    answer = parse_object(body, what=what)
    commit, siblings = answer.get("sha"), answer.get("siblings")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit) or not isinstance(siblings, list):
        raise InfrastructureError(f"{what}: the answer has no commit or no files; is HF_ENDPOINT a Hub?")
    files = [_parse_file(entry, what) for entry in siblings]
    return Repository(model_id, commit, {file.path: file for file in files if file is not None})


def _parse_file(entry: Any, what: str) -> RemoteFile | None:
    """Return one listed file; None for an unsafe path, which counts as missing."""
    try:
        name, size, blob, lfs = entry["rfilename"], entry["size"], entry.get("blobId"), entry.get("lfs")
        sha256 = lfs["sha256"] if lfs else None
    except (KeyError, TypeError, AttributeError):
        raise InfrastructureError(f"{what}: the Hub's list of files lacks names or sizes") from None
    if not isinstance(name, str) or type(size) is not int or not 0 <= size <= MAX_FILE_SIZE:
        raise InfrastructureError(f"{what}: the Hub's list of files has a malformed entry {str(entry)[:100]}")
    if (blob is not None and not _is_hex_digest(blob, COMMIT)) or (
        sha256 is not None and not _is_hex_digest(sha256, SHA256)
    ):
        raise InfrastructureError(f"{what}: malformed digest of {name[:100]!r}")
    return RemoteFile(name, size, blob, sha256) if is_safe_path(name) else None


def _is_hex_digest(value: Any, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
