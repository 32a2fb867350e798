"""The Python files of models in a remote store: `<url>/code/<owner>--<name>/<commit>/…`, for machines without the Hub.

A fetch job writes them, from the Hub alone; a test machine reads them, and takes only what the fetch job has named by
its digest. A job without such a digest (a machine that is offline) takes what agrees with the manifest there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import HubTestsError, InfrastructureError
from ci.hub.code_manifest import MAX_CODE_MANIFEST, CodeManifest, parse_code_manifest
from ci.hub.remote_store import DamagedRemoteError, RemoteStore
from ci.hub.store_paths import CODE_MANIFEST, StorePaths

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class RemoteCode:
    """The code at the remote place, read whole: its manifest, and each file's content."""

    manifest: CodeManifest
    files: Mapping[str, bytes]


class RemoteCodeStore(RemoteStore):
    """The directory of code in the store at `url`."""

    def read_code(self, model_id: str, commit: str, digest: str | None = None) -> RemoteCode | None:
        """Return the code of a commit, each byte hashed; None where there is none, or none with the digest.

        Raises DamagedRemoteError for other content than the manifest says.
        """
        manifest = self._find_code(model_id, commit)
        if manifest is None or digest not in (None, manifest.digest):
            return None
        path = f"{self._root}/{StorePaths.relative_code_path(model_id, commit)}"
        files = {}
        for name, entry in manifest.files.items():
            with self._explain("read"):
                try:
                    content = bytes(self._files.cat_file(f"{path}/{name}", start=0, end=entry.size + 1))
                except FileNotFoundError:
                    content = b""
            if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
                where = f"{model_id} at {commit[:8]}: {name}"
                raise DamagedRemoteError(f"{self.url}: {where} has other content than its manifest says")
            files[name] = content
        return RemoteCode(manifest, files)

    def upload_code(self, directory: Path, manifest: CodeManifest) -> None:
        """Copy a verified directory of code to the remote place, its manifest last.

        One that is complete there is written again: its time says when it was last fetched.
        """
        path = f"{self._root}/{StorePaths.relative_code_path(manifest.model_id, manifest.commit)}"
        with self._explain("written"):
            for name in (*manifest.files, CODE_MANIFEST):
                self._put(directory / name, f"{path}/{name}")

    def _find_code(self, model_id: str, commit: str) -> CodeManifest | None:
        path = f"{self._root}/{StorePaths.relative_code_path(model_id, commit)}/{CODE_MANIFEST}"
        with self._explain("read"):
            try:
                content = bytes(self._files.cat_file(path, start=0, end=MAX_CODE_MANIFEST + 1))
            except FileNotFoundError:
                return None
        if len(content) > MAX_CODE_MANIFEST:
            raise InfrastructureError(f"{self.url}: a manifest of code above {MAX_CODE_MANIFEST} bytes; remove it")
        try:
            return parse_code_manifest(content, model_id, commit, what=f"{self.url}: {model_id} at {commit[:8]}")
        except HubTestsError as problem:
            raise DamagedRemoteError(str(problem)) from None
