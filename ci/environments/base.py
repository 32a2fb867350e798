"""Base environments on this machine: built by trusted code, complete with their manifest, read-only afterwards."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ci.environments.description import EnvironmentDescription
from ci.environments.image import enter_image, read_image_digest
from ci.environments.lease import claim, lease
from ci.errors import HubTestsError, InfrastructureError
from ci.records import STRICT, read_json, to_json
from ci.subjects.failure import to_one_line
from ci.subjects.image_root import ROOT, find_image_root

if TYPE_CHECKING:
    from ci.environments.installer import Installer

MANIFEST = "environment.json"
FILES = "files.sha256"
SECONDS = 3600


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
        if self.manifest.description.image:
            return self.path / ROOT / self.manifest.description.python.lstrip("/")
        return self.path / "bin" / "python"


def base_path(root: Path, description: EnvironmentDescription) -> Path:
    """Name the directory of a description's base environment under `root`."""
    return root / f"{description.name}-{description.digest[:16]}"


def find_base(root: Path, description: EnvironmentDescription) -> BaseEnvironment | None:
    """Return the base environment of a description, None where it was not built."""
    path = base_path(root, description)
    return read_base(path) if (path / MANIFEST).is_file() else None


def read_base(path: Path) -> BaseEnvironment:
    """Read a base environment's manifest. Raises InfrastructureError where it is damaged."""
    try:
        text = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise InfrastructureError(f"{path}: not a complete environment: {error.strerror}") from None
    return BaseEnvironment(path, read_json(BaseManifest, text, what=str(path / MANIFEST), error=InfrastructureError))


def list_bases(root: Path) -> tuple[BaseEnvironment, ...]:
    """List the complete base environments under `root`, by path."""
    return tuple(read_base(path.parent) for path in sorted(root.glob(f"*/{MANIFEST}")))


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
    with _locked(root / f".{path.name}.lock", lambda: progress(f"waiting for the process that builds {path}")):
        if (existing := find_base(root, description)) is not None:
            return existing
        _remove(path)
        try:
            installer.create(path, python or description.python, progress)
            installer.install(path, description, progress)
            return _complete(path, description, installer)
        except (HubTestsError, OSError, KeyboardInterrupt):
            _remove(path)
            raise


def verify_base(environment: BaseEnvironment) -> tuple[str, ...]:
    """Hash every file of a base environment and return what is not as it was built."""
    text = (environment.path / FILES).read_text(encoding="utf-8")
    if hashlib.sha256(text.encode()).hexdigest() != environment.manifest.files_sha256:
        return (f"{FILES} is not the one that was written",)
    before, after = _by_name(text.splitlines()), _by_name(_iter_file_lines(environment.path))
    gone = [f"{name} is missing" for name in before.keys() - after.keys()]
    new = [f"{name} was added" for name in after.keys() - before.keys()]
    changed = [f"{name} was changed" for name in before.keys() & after.keys() if before[name] != after[name]]
    return (*sorted(gone), *sorted(new), *sorted(changed))


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
                with _locked(root / f".{environment.path.name}.lock"):
                    _remove(environment.path)
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
    image = description.image
    python = path / ROOT / description.python.lstrip("/") if image else path / "bin/python"
    version, packages = _read_packages(python)
    text = "".join(f"{line}\n" for line in _iter_file_lines(path))
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
    part.write_text(to_json(manifest, indent=1), encoding="utf-8")
    part.replace(path / MANIFEST)
    _set_writable(path, writable=False)
    return BaseEnvironment(path, manifest)


def _read_packages(python: Path) -> tuple[str, dict[str, str]]:
    """Ask the new interpreter for its version and packages. Only trusted code has written into it."""
    code = (
        "import importlib.metadata as m, json, platform;"
        "print(json.dumps([platform.python_version(), {d.name: d.version for d in m.distributions()}]))"
    )
    arguments = ["-I", "-c", code]
    command = enter_image(python, arguments) if find_image_root(python) else [str(python), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as problem:
        said = to_one_line(getattr(problem, "stderr", None) or str(problem), 300)
        raise InfrastructureError(f"{python}: the new interpreter does not run: {said}") from None
    version, packages = json.loads(done.stdout)
    return version, dict(sorted(packages.items()))


def _iter_file_lines(path: Path) -> Iterator[str]:
    """Yield `digest  name` of every file and link below `path`, except our own two."""
    for directory, folders, names in os.walk(path):
        folders.sort()
        links = [name for name in folders if (Path(directory) / name).is_symlink()]
        for name in sorted([*names, *links]):
            file = Path(directory) / name
            if file.parent == path and name in (MANIFEST, FILES, f".{MANIFEST}.part"):
                continue
            if not file.is_symlink() and not file.is_file():
                continue  # a pipe or a socket of an image has no content
            content = str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()
            kind = "link:" if file.is_symlink() else ""
            yield f"{kind}{hashlib.sha256(content).hexdigest()}  {file.relative_to(path)}"


def _by_name(lines: Iterable[str]) -> dict[str, str]:
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def _set_writable(path: Path, *, writable: bool) -> None:
    for directory, _, names in os.walk(path):
        for file in (Path(directory), *(Path(directory) / name for name in names)):
            if not file.is_symlink():
                mode = stat.S_IMODE(file.stat().st_mode)
                file.chmod(mode | stat.S_IWUSR if writable else mode & ~0o222)


def _remove(path: Path) -> None:
    if path.is_dir():
        _set_writable(path, writable=True)
        shutil.rmtree(path)


@contextmanager
def _locked(path: Path, tell: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file, so that two processes never build one environment; `tell` that another one holds it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
