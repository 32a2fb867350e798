"""Fetch the Python files of a repository at one commit: the code that travels with a model. Nothing here imports it.

    <root>/code/<owner>--<name>/<commit>/          the files, and hub-tests-code.json, which names each with its SHA-256

They lie beside the checkpoints and never in one: neither a subject nor the judge gets them with the weights.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ci.errors import HubTestsError, InfrastructureError, RemoteCodeError, RequestError
from ci.hub.manifest import FileEntry, read_limited
from ci.hub.repository import check_model_id, is_commit
from ci.hub.store_paths import encode_model_id
from ci.records import STRICT, read_json, to_json

if TYPE_CHECKING:
    from ci.hub.remote import HubClient
    from ci.hub.repository import Repository
    from ci.settings import Settings

MANIFEST = "hub-tests-code.json"
MODULE = re.compile(r"[A-Za-z_]\w{0,99}\.py", re.ASCII)
"""The name of a file that another one can import; those in directories are left out, as transformers leaves them."""
MAX_FILES = 64
MAX_FILE_BYTES = 1024**2
"""The largest file of modelling code in transformers has 0.4 MB."""
MAX_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class CodeManifest:
    """The whole of `hub-tests-code.json`: where the files come from, and their sizes and digests."""

    __pydantic_config__: ClassVar = STRICT
    model_id: str
    commit: str
    files: Mapping[str, FileEntry]


def fetch_code(model_id: str, commit: str, settings: Settings) -> Path:
    """Return the directory with a model's Python files at a full commit, from the store or else from the Hub.

    Raises RequestError for anything but a full commit or where there is no such file, RemoteCodeError for more than
    the limits, InfrastructureError when Hub, network or disk fail.
    """
    check_model_id(model_id)
    if not is_commit(commit):
        raise RequestError(f"{model_id}: code_revision {commit[:100]}: expected a full commit of 40 hex digits")
    target = settings.cache / "code" / encode_model_id(model_id) / commit
    if is_complete(target, model_id, commit):
        return target
    if settings.offline:
        raise InfrastructureError(
            f"the Python files of {model_id} at {commit[:8]} are not in {settings.cache}, and HF_HUB_OFFLINE is set; "
            "fetch the entry once on a machine that reaches the Hub"
        )
    from ci.hub.remote import HubClient

    hub = HubClient(settings)
    repository = hub.get_repository(model_id, commit)
    return _write(target, repository, _read_files(hub, repository))


def is_complete(directory: Path, model_id: str, commit: str) -> bool:
    """Return whether a directory holds exactly the files that its manifest names, each with its content."""
    with suppress(OSError, HubTestsError):
        manifest = read_json(CodeManifest, read_limited(directory / MANIFEST), what=str(directory / MANIFEST))
        names = {entry.name for entry in os.scandir(directory)} - {MANIFEST}
        if (manifest.model_id, manifest.commit, set(manifest.files)) == (model_id, commit, names):
            return all(_has_content(directory / name, entry) for name, entry in manifest.files.items())
    return False


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


def _read_files(hub: HubClient, repository: Repository) -> dict[str, bytes]:
    """Read each file; its size and digest are checked against the listing of the commit."""
    names = select_code_files(repository)
    contents = hub.map_parallel(lambda name: hub.read_file(repository, name, limit=MAX_FILE_BYTES), names)
    return dict(zip(names, contents, strict=True))


def _write(target: Path, repository: Repository, files: Mapping[str, bytes]) -> Path:
    """Write the files at `target`, whole or not at all; what lies there and is not complete is replaced."""
    entries = {name: FileEntry(len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    manifest = CodeManifest(repository.model_id, repository.commit, entries)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{repository.commit}.", dir=target.parent))
        try:
            for name, content in {**files, MANIFEST: to_json(manifest, indent=1).encode()}.items():
                (scratch / name).write_bytes(content)
                (scratch / name).chmod(0o444)
            scratch.chmod(0o755)
            _replace(scratch, target, manifest)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as problem:
        raise InfrastructureError(f"{target}: cannot be written: {problem.strerror}") from None
    return target


def _replace(scratch: Path, target: Path, manifest: CodeManifest) -> None:
    """Rename a complete directory to its place, unless another process has put one there."""
    if target.exists() and not is_complete(target, manifest.model_id, manifest.commit):
        shutil.rmtree(target)
    try:
        scratch.rename(target)
    except OSError:
        if not is_complete(target, manifest.model_id, manifest.commit):
            raise


def _has_content(path: Path, entry: FileEntry) -> bool:
    """Return whether a path is a regular file of an entry's size and digest."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size or entry.size > MAX_FILE_BYTES:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
