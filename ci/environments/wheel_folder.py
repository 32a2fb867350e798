"""A folder with the wheels of base environments: whoever may only read it still installs from it.

uv's and pip's own caches must be writable. A folder of wheels need not be: UV_FIND_LINKS and PIP_FIND_LINKS name it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ci.certificates import share_certificates
from ci.environments.installer import LOCK, UvInstaller, find_installer
from ci.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ci.environments.base import BaseEnvironment

SECONDS = 3600
LIST = ".wheels-of-"
"""The beginning of the file with the names of one environment's wheels; it is written last."""
DRAFT = ".draft-"
"""The beginning of a directory into which wheels are fetched before they are moved into the folder."""
SEEDS = ("pip", "setuptools", "wheel")
"""What `uv venv --seed` installs before anything else, from Python 3.12 on pip alone.

https://docs.astral.sh/uv/reference/cli/#uv-venv--seed
"""


def keep_wheels(
    base: BaseEnvironment, folder: Path, environ: Mapping[str, str], progress: Callable[[str], None]
) -> tuple[str, ...]:
    """Put the wheels of a base environment into `folder`, unless they are there; return their names.

    With them go those that uv puts into each new environment.
    What has no wheel is built into one, by code that is trusted as the environment's packages are.
    """
    if base.manifest.description.image:
        return ()  # an image has no wheels to keep
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f"{LIST}{base.path.name}"
    if mark.is_file() and all((folder / name).is_file() for name in mark.read_text().split()):
        return tuple(mark.read_text().split())
    progress(f"keeping the wheels of {base.path.name} in {folder}")
    # A draft of its own, and the list moved into place: what a killed process leaves is never taken for complete.
    with TemporaryDirectory(prefix=DRAFT, dir=folder) as directory:
        draft = Path(directory)
        _fetch_wheels(base, draft, environ)
        names = tuple(sorted(wheel.name for wheel in draft.glob("*.whl")))
        for name in names:
            (draft / name).replace(folder / name)
        written = draft / "list"
        written.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        written.chmod(0o644)
        written.replace(mark)
    return names


def _fetch_wheels(base: BaseEnvironment, draft: Path, environ: Mapping[str, str]) -> None:
    lock = base.path / LOCK
    exact = ["--no-deps", "--require-hashes", "-r", str(lock)]
    loose = ["-c", str(base.path / "constraints.txt"), "-r", str(base.path / "requirements.txt")]
    quiet = ["--quiet", "--disable-pip-version-check", "--wheel-dir", str(draft)]
    wheel = [str(base.python), "-m", "pip", "wheel", *quiet]
    _run([*wheel, *(exact if lock.is_file() else loose)], environ)
    if seeds := _list_seeds(base, environ):
        _run([*wheel, "--no-deps", *seeds], environ)


def _list_seeds(base: BaseEnvironment, environ: Mapping[str, str]) -> Sequence[str]:
    if not isinstance(find_installer(environ), UvInstaller):
        return ()
    version = tuple(map(int, base.manifest.python_version.split(".")[:2]))
    return SEEDS if version < (3, 12) else SEEDS[:1]


def prune_wheels(folder: Path, environments: Path) -> tuple[str, ...]:
    """Remove wheels that no environment below `environments` has, and unfinished drafts; return the wheels' names."""
    wanted: set[str] = set()
    for mark in folder.glob(f"{LIST}*"):
        if (environments / mark.name.removeprefix(LIST)).is_dir():
            wanted |= set(mark.read_text(encoding="utf-8").split())
        else:
            mark.unlink()
    for draft in folder.glob(f"{DRAFT}*"):  # of a process that was killed: only the host's one unit writes here
        shutil.rmtree(draft, ignore_errors=True)
    gone = [wheel for wheel in folder.glob("*.whl") if wheel.name not in wanted]
    for wheel in gone:
        wheel.unlink()
    return tuple(sorted(wheel.name for wheel in gone))


def _run(command: list[str], environ: Mapping[str, str]) -> None:
    try:
        subprocess.run(  # noqa: S603
            command, env=share_certificates(environ), check=True, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.CalledProcessError as failure:
        said = " ".join(failure.stderr.split()[-60:])[-500:]
        raise InfrastructureError(f"the environment's wheels cannot be kept: {said}") from None
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise InfrastructureError(f"the environment's wheels cannot be kept: {failure}") from None
