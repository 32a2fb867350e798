"""Base environments on this machine: built by trusted code, complete with their manifest, read-only afterwards."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ci.environments.build_lock import hold_lock, try_lock
from ci.environments.description import NAME, EnvironmentDescription
from ci.environments.file_list import compare_files, iter_file_lines
from ci.environments.image import read_image_digest
from ci.environments.installed import read_packages
from ci.environments.lease import claim, lease
from ci.errors import InfrastructureError
from ci.records import STRICT, read_json, to_json
from ci.subjects.failure import to_one_line
from ci.subjects.image_root import ROOT, find_image_root

if TYPE_CHECKING:
    from ci.environments.installer import Installer

MANIFEST = "environment.json"
FILES = "files.sha256"
OWN = (MANIFEST, FILES, f".{MANIFEST}.part")
"""What hub-tests itself writes into a base environment."""
DIRECTORY = re.compile(rf"{NAME.pattern}-[0-9a-f]{{16}}")


@dataclass(frozen=True)
class BaseManifest:
    """What a base environment is. `built_at` in seconds since 1970; `files_sha256` is of the list of its files.

    `image_digest` is that of the container image, "" for an environment of packages.
    """

    __pydantic_config__: ClassVar = STRICT
    description: EnvironmentDescription
    digest: str
    python_version: str
    packages: Mapping[str, str]
    installer: str
    built_at: float
    files_sha256: str
    schema: int = 1
    image_digest: str = ""


@dataclass(frozen=True)
class BaseEnvironment:
    """A complete base environment."""

    path: Path
    manifest: BaseManifest

    @property
    def python(self) -> Path:
        """Its interpreter: of an image, the path that it has on this machine."""
        return _locate_python(self.path, self.manifest.description)


@dataclass(frozen=True)
class IncompleteBase:
    """What is called as a base environment and is none; `damage` is "" for one that is half built or half removed."""

    path: Path
    damage: str

    def __str__(self) -> str:
        """Say what is wrong with it, in one line."""
        return f"{self.path}: {self.damage or 'not complete: is being built, or was left by a kill'}"


def _locate_python(path: Path, description: EnvironmentDescription) -> Path:
    return path / ROOT / description.python.lstrip("/") if description.image else path / "bin/python"


def base_path(root: Path, description: EnvironmentDescription) -> Path:
    """Name the directory of a description's base environment under `root`."""
    return root / f"{description.name}-{description.digest[:16]}"


def _name_lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def find_base(root: Path, description: EnvironmentDescription) -> BaseEnvironment | None:
    """Return the base environment of a description, None where it was not built or is half removed.

    Raises InfrastructureError where it is damaged, or its interpreter is not on this machine.
    """
    path = base_path(root, description)
    if not _has_manifest(path):
        return None
    base = read_base(path)
    if not os.path.lexists(base.python):
        return None
    if base.manifest.digest != description.digest:
        raise InfrastructureError(f"{path}: holds another environment than its name says; remove it, or move it back")
    if not description.image and not base.python.exists():
        gone = f"its interpreter {os.path.realpath(base.python)} is not on this machine"
        raise InfrastructureError(f"{path}: {gone}: install that again, or remove this environment and build it again")
    return base


def _has_manifest(path: Path) -> bool:
    """Return whether a manifest was written; an empty one is what a crash of the machine leaves."""
    return os.path.isfile(path / MANIFEST) and os.path.getsize(path / MANIFEST) > 0  # noqa: PTH113, PTH202 (never raise)


def read_base(path: Path) -> BaseEnvironment:
    """Read a base environment's manifest. Raises InfrastructureError where it is damaged."""
    try:
        text = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise InfrastructureError(f"{path}: not a complete environment: {error.strerror}") from None
    what = f"{path}: damaged, remove it and build it again: {MANIFEST}"
    return BaseEnvironment(path, read_json(BaseManifest, text, what=what, error=InfrastructureError))


def list_bases(root: Path) -> tuple[BaseEnvironment, ...]:
    """List the complete base environments under `root`, by path; what is damaged is left out."""
    bases = []
    for path in sorted(root.glob(f"*/{MANIFEST}")):
        with suppress(InfrastructureError):
            bases.append(read_base(path.parent))
    return tuple(bases)


def list_incomplete(root: Path) -> tuple[IncompleteBase, ...]:
    """List what is called as a base environment under `root` and is none, by path."""
    found = []
    for path in sorted(root.glob("*")):
        if DIRECTORY.fullmatch(path.name):
            try:
                read_base(path)
            except InfrastructureError as problem:
                found.append(
                    IncompleteBase(path, str(problem).removeprefix(f"{path}: ") if _has_manifest(path) else "")
                )
    return tuple(found)


def build_base(
    root: Path,
    description: EnvironmentDescription,
    installer: Installer,
    *,
    python: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> BaseEnvironment:
    """Build the base environment of a description, or return the one that is there.

    `python` names an interpreter instead of the description's range. Raises RequestError where none fits and
    InfrastructureError where the packages cannot be installed; what was begun is removed.
    """
    path = base_path(root, description)
    root.mkdir(parents=True, exist_ok=True)
    with hold_lock(_name_lock(path), lambda: progress(f"waiting for the process that builds {path}")):
        if (existing := find_base(root, description)) is not None:
            return existing
        _remove(path)
        try:
            installer.create(path, python or description.python, progress)
            installer.install(path, description, progress)
            return _complete(path, description, installer)
        except BaseException:  # whatever it is: a part must not stay
            _remove(path)
            raise


def verify_base(environment: BaseEnvironment) -> tuple[str, ...]:
    """Hash every file of a base environment and return what is not as it was built."""
    if environment.manifest.digest != environment.manifest.description.digest:
        return (f"{MANIFEST} describes another environment than the one that was built",)
    try:
        content = (environment.path / FILES).read_bytes()
        if hashlib.sha256(content).hexdigest() != environment.manifest.files_sha256:
            return (f"{FILES} is not the one that was written",)
        return compare_files(environment.path, content.decode(), OWN)
    except OSError as problem:
        return (f"{to_one_line(str(problem.filename or FILES), 300)} cannot be read: {problem.strerror}",)


def prune_incomplete(root: Path, *, older_than: float, dry_run: bool) -> tuple[Path, ...]:
    """Remove what builds and removals that were killed left `older_than` seconds ago, and what is damaged."""
    removed = []
    for path in (one.path for one in list_incomplete(root)):
        with try_lock(_name_lock(path)) as free:
            if free and time.time() - path.lstat().st_mtime > older_than:
                removed.append(path)
                if not dry_run:
                    _remove_or_say(path)
    return tuple(removed)


def prune_bases(root: Path, *, older_than: float, keep: frozenset[str], dry_run: bool) -> tuple[BaseEnvironment, ...]:
    """Remove base environments that nobody used for `older_than` seconds; `keep` are digests that stay.

    One that a living process of this machine uses stays, however long ago that process began.
    """
    now = time.time()
    idle = [
        environment
        for environment in list_bases(root)
        if environment.manifest.digest not in keep and now - last_used(environment) > older_than
    ]
    removed = []
    for environment in idle:
        with claim(environment.path / MANIFEST) as free:
            if not free:
                continue
            removed.append(environment)
            if not dry_run:
                with try_lock(_name_lock(environment.path), wait=True):
                    _remove_or_say(environment.path)
    return tuple(removed)


def find_base_of(python: Path) -> BaseEnvironment | None:
    """Return the base environment that an interpreter belongs to, None for any other interpreter."""
    root = find_image_root(python)
    path = root.parent if root else python.absolute().parent.parent
    return read_base(path) if (path / MANIFEST).is_file() else None


@contextmanager
def use_base(environment: BaseEnvironment) -> Iterator[bool]:
    """Keep a base environment from being removed while the block runs; yield whether it is still there."""
    with lease(environment.path / MANIFEST) as held:
        if held:
            mark_used(environment)
        yield held


def last_used(environment: BaseEnvironment) -> float:
    """Tell when a job last used an environment, in seconds since 1970."""
    return (environment.path / MANIFEST).stat().st_mtime


def mark_used(environment: BaseEnvironment) -> None:
    """Note that a job uses an environment now; a read-only mount keeps its own time."""
    try:
        os.utime(environment.path / MANIFEST)
    except OSError:
        return


def _complete(path: Path, description: EnvironmentDescription, installer: Installer) -> BaseEnvironment:
    """Write the list of files, then the manifest, and take all write permissions away."""
    version, packages = read_packages(_locate_python(path, description), description)
    text = "".join(f"{line}\n" for line in iter_file_lines(path, OWN))
    (path / FILES).write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    manifest = BaseManifest(
        description,
        description.digest,
        version,
        packages,
        installer.description,
        time.time(),
        digest,
        image_digest=read_image_digest(path),
    )
    part = path / f".{MANIFEST}.part"
    with part.open("w", encoding="utf-8") as file:
        file.write(to_json(manifest, indent=1))
        file.flush()
        os.fsync(file.fileno())  # a crash of the machine leaves no empty manifest
    part.replace(path / MANIFEST)
    _set_writable(path, writable=False)
    return BaseEnvironment(path, manifest)


def _set_writable(path: Path, *, writable: bool) -> None:
    for directory, _, names in os.walk(path):
        for file in (Path(directory), *(Path(directory) / name for name in names)):
            if not file.is_symlink():
                mode = stat.S_IMODE(file.stat().st_mode)
                file.chmod(mode | stat.S_IWUSR if writable else mode & ~0o222)


def _remove(path: Path) -> None:
    """Remove an environment, its manifest first: killed half way, it no longer looks complete."""
    if path.is_symlink() or path.is_file():
        path.unlink()  # what a link leads to is not ours
    if path.is_dir():
        path.chmod(0o755)
        if (path / MANIFEST).is_symlink() or not (path / MANIFEST).is_dir():
            (path / MANIFEST).unlink(missing_ok=True)
        _set_writable(path, writable=True)
        shutil.rmtree(path)


def _remove_or_say(path: Path) -> None:
    try:
        _remove(path)
    except OSError as problem:
        raise InfrastructureError(f"{path}: cannot be removed: {problem.strerror or problem}") from None
