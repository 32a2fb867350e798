"""Fetch the Python files of a repository at one commit: the code that travels with a model. Nothing here imports it.

    <root>/code/<owner>--<name>/<commit>/          the files, and hub-tests-code.json, which names each with its SHA-256

They lie beside the checkpoints and never in one: neither a subject nor the judge gets them with the weights. They come
from the Hub alone, each compared with the Hub's own list; only a machine that is offline, or a test job, which knows
their digest from the fetch job, takes them from a remote store.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError, RemoteCodeError, RequestError
from ci.hub.code_manifest import MAX_BYTES, MAX_FILE_BYTES, MAX_FILES, MODULE, CodeManifest, find_code
from ci.hub.manifest import FileEntry
from ci.hub.repository import check_model_id, is_commit
from ci.hub.store import Store
from ci.hub.store_paths import CODE_MANIFEST, StorePaths
from ci.records import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.hub.remote import HubClient
    from ci.hub.repository import Repository
    from ci.settings import Settings


@dataclass(frozen=True)
class FetchedCode:
    """The directory with a model's Python files, the digest of all of them, and the bytes that came from elsewhere."""

    path: Path
    digest: str
    bytes_fetched: int = 0


def fetch_code(model_id: str, commit: str, settings: Settings) -> FetchedCode:
    """Return a model's Python files at a full commit, marked as in use, fetched where missing.

    A machine that is offline looks into the remote store. Raises RequestError for anything but a full commit or where
    there is no such file, RemoteCodeError for more than the limits, InfrastructureError when Hub, network or disk fail.
    """
    check_model_id(model_id)
    if not is_commit(commit):
        raise RequestError(f"{model_id}: code_revision {commit[:100]}: expected a full commit of 40 hex digits")
    target = StorePaths(settings.cache).code_path(model_id, commit)
    manifest, fetched = find_code(target), 0
    if manifest is None and settings.offline:
        return copy_code(model_id, commit, settings.cache, settings.store_url)
    if manifest is None:
        manifest = _fetch(target, model_id, commit, settings)
        fetched = sum(entry.size for entry in manifest.files.values())
    Store(settings.cache).mark_in_use(target)
    if settings.store_url and settings.uploads:
        from ci.hub.remote_code import RemoteCodeStore

        RemoteCodeStore(settings.store_url).upload_code(target, manifest)
    return FetchedCode(target, manifest.digest, fetched)


def copy_code(model_id: str, commit: str, cache: Path, store_url: str | None, digest: str | None = None) -> FetchedCode:
    """Return a model's Python files without the Hub: from the local store, else from the remote one.

    With `digest`, exactly those files: what has another one is replaced, and never used. Raises InfrastructureError
    where neither store has them.
    """
    target = StorePaths(cache).code_path(model_id, commit)
    manifest, fetched = find_code(target), 0
    if manifest is None or digest not in (None, manifest.digest):
        manifest = _copy(target, model_id, commit, store_url, digest)
        fetched = sum(entry.size for entry in manifest.files.values())
    Store(cache).mark_in_use(target)
    return FetchedCode(target, manifest.digest, fetched)


def select_code_files(repository: Repository) -> list[str]:
    """Select the files that can be imported, and hold their listed sizes to the limits."""
    names = sorted(name for name in repository.files if MODULE.fullmatch(name))
    what = f"{repository.model_id} at {repository.commit}"
    if not names:
        raise RequestError(f"{what}: no Python files beside config.json; choose the commit that has the model's code")
    sizes = {name: repository.get_file(name).size for name in names}
    largest = max(names, key=lambda name: sizes[name])
    if len(names) > MAX_FILES or sizes[largest] > MAX_FILE_BYTES or sum(sizes.values()) > MAX_BYTES:
        raise RemoteCodeError(
            f"{what}: {len(names)} Python files of {sum(sizes.values())} bytes, the largest {largest} of "
            f"{sizes[largest]}; the limits are {MAX_FILES} files, {MAX_FILE_BYTES} bytes each, {MAX_BYTES} in all"
        )
    return names


def _fetch(target: Path, model_id: str, commit: str, settings: Settings) -> CodeManifest:
    from ci.hub.remote import HubClient

    hub = HubClient(settings)
    repository = hub.get_repository(model_id, commit)
    return _write(target, repository.model_id, repository.commit, _read_files(hub, repository))


def _copy(target: Path, model_id: str, commit: str, store_url: str | None, digest: str | None) -> CodeManifest:
    found = None
    if store_url:
        from ci.hub.remote_code import RemoteCodeStore

        found = RemoteCodeStore(store_url).read_code(model_id, commit, digest)
    if found is None:
        which = " with the digest that was fetched for this run" if digest else ""
        where = f"{target.parents[2]} and {store_url}" if store_url else f"{target.parents[2]}"
        raise InfrastructureError(
            f"the Python files of {model_id} at {commit[:8]} are not in {where}{which}, and this machine asks no Hub "
            "(HF_HUB_OFFLINE, or a test job); fetch the entry once on a machine that reaches the Hub"
        )
    return _write(target, model_id, commit, found.files)


def _read_files(hub: HubClient, repository: Repository) -> dict[str, bytes]:
    """Read each file; its size and digest are checked against the listing of the commit."""
    names = select_code_files(repository)
    contents = hub.map_parallel(lambda name: hub.read_file(repository, name, limit=MAX_FILE_BYTES), names)
    return dict(zip(names, contents, strict=True))


def _write(target: Path, model_id: str, commit: str, files: Mapping[str, bytes]) -> CodeManifest:
    """Write the files at `target`, whole or not at all; what lies there and is not the same is replaced."""
    entries = {name: FileEntry(len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    manifest = CodeManifest(model_id, commit, entries)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{commit}.", dir=target.parent))
        try:
            for name, content in {**files, CODE_MANIFEST: to_json(manifest, indent=1).encode()}.items():
                (scratch / name).write_bytes(content)
                (scratch / name).chmod(0o444)
            scratch.chmod(0o755)
            _replace(scratch, target, manifest)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as problem:
        raise InfrastructureError(f"{target}: cannot be written: {problem.strerror}") from None
    return manifest


def _replace(scratch: Path, target: Path, manifest: CodeManifest) -> None:
    """Rename a complete directory to its place, unless another process has put the same one there."""
    if target.exists() and not _holds(target, manifest):
        shutil.rmtree(target)
    try:
        scratch.rename(target)
    except OSError:
        if not _holds(target, manifest):
            raise


def _holds(directory: Path, manifest: CodeManifest) -> bool:
    found = find_code(directory)
    return found is not None and found.digest == manifest.digest
