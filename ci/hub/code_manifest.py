"""`hub-tests-code.json`: which Python files of a repository lie in a store, from which commit, with which digests."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ci.errors import HubTestsError, InfrastructureError
from ci.hub.manifest import FileEntry, read_limited
from ci.hub.store_paths import CODE_MANIFEST, decode_model_id
from ci.records import STRICT, read_json, to_json

if TYPE_CHECKING:
    from pathlib import Path

MODULE = re.compile(r"[A-Za-z_]\w{0,99}\.py", re.ASCII)
"""The name of a file that another one can import; those in directories are left out, as transformers leaves them."""
MAX_FILES = 64
MAX_FILE_BYTES = 1024**2
"""The largest file of modelling code in transformers has 0.4 MB."""
MAX_BYTES = 4 * 1024**2
MAX_CODE_MANIFEST = 64 * 1024


@dataclass(frozen=True)
class CodeManifest:
    """The whole of `hub-tests-code.json`: where the files come from, and their sizes and digests."""

    __pydantic_config__: ClassVar = STRICT
    model_id: str
    commit: str
    files: Mapping[str, FileEntry]

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hex: equal digests mean equal files of the same commit."""
        ordered = CodeManifest(self.model_id, self.commit, dict(sorted(self.files.items())))
        return hashlib.sha256(to_json(ordered).encode()).hexdigest()


def parse_code_manifest(content: bytes, model_id: str, commit: str, *, what: str) -> CodeManifest:
    """Return the manifest in `content`. Raises InfrastructureError for any other text, or beyond the limits."""
    manifest = read_json(CodeManifest, content, what=what, error=InfrastructureError)
    sizes = [entry.size for entry in manifest.files.values()]
    problem = ""
    if (manifest.model_id, manifest.commit) != (model_id, commit):
        problem = f"is about {manifest.model_id[:100]} at {manifest.commit[:40]}"
    elif not all(MODULE.fullmatch(name) and entry.sha256 for name, entry in manifest.files.items()):
        problem = "names what is no Python file with a digest"
    elif (
        not 0 < len(sizes) <= MAX_FILES or not 0 <= min(sizes) <= max(sizes) <= MAX_FILE_BYTES or sum(sizes) > MAX_BYTES
    ):
        problem = "is beyond the limits"
    if problem:
        raise InfrastructureError(f"{what}: {problem}")
    return manifest


def find_code(directory: Path) -> CodeManifest | None:
    """Return the manifest of a store's directory that holds exactly its files, each with its content."""
    return None if find_code_problems(directory) else _read(directory)


def find_code_problems(directory: Path) -> list[str]:
    """Return what is wrong with a store's directory of code; nothing is imported."""
    try:
        manifest = _read(directory)
        names = {entry.name for entry in os.scandir(directory)} - {CODE_MANIFEST}
        problems = [f"{name} is missing" for name in sorted(set(manifest.files) - names)]
        problems += [f"{name[:100]} is not in the manifest" for name in sorted(names - set(manifest.files))]
        for name, entry in manifest.files.items():
            if name in names and not _has_content(directory / name, entry):
                problems.append(f"{name} has other content than the manifest says")
    except OSError as error:
        return [f"cannot be read: {error.strerror or error}"]
    except HubTestsError as problem:
        return [str(problem)]
    return problems


def _read(directory: Path) -> CodeManifest:
    content = read_limited(directory / CODE_MANIFEST)
    model_id, what = decode_model_id(directory.parent.name), str(directory / CODE_MANIFEST)
    return parse_code_manifest(content, model_id, directory.name, what=what)


def _has_content(path: Path, entry: FileEntry) -> bool:
    """Return whether a path is a regular file of an entry's size and digest."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size or entry.size > MAX_FILE_BYTES:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
