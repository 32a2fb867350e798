"""What makes an environment and installs packages into it: uv where it can be found, else venv and pip."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ci.certificates import share_certificates
from ci.errors import InfrastructureError, RequestError
from ci.subjects.failure import to_one_line
from ci.subjects.parent_death import end_with_parent

if TYPE_CHECKING:
    from ci.environments.description import EnvironmentDescription

SECONDS = 3600
LOCK = "requirements.lock"
LOG_HEAD = re.compile(r'^time="\S*" level=\w+ msg=')
"""How skopeo's and umoci's lines begin."""
UNREACHED = "Could not fetch URL"
"""How pip says on stdout, unless it is quiet, why it found nothing; its error only says that nothing was found."""
VERSIONS = ("3.13", "3.12", "3.11")
Progress = Callable[[str], None]


class Installer(Protocol):
    """Makes environments."""

    @property
    def description(self) -> str:
        """Its name and version."""
        ...

    def create(self, path: Path, python: str, progress: Progress) -> None:
        """Make an empty environment with pip at `path`; `python` is a version specifier or an interpreter."""
        ...

    def install(self, path: Path, description: EnvironmentDescription, progress: Progress) -> None:
        """Install the requirements of a description into the environment at `path`."""
        ...


def find_installer(environ: Mapping[str, str]) -> Installer:
    """Choose uv where it is installed, else pip."""
    program = find_uv(environ)
    return UvInstaller(Path(program), environ) if program else PipInstaller(environ)


def find_uv(environ: Mapping[str, str]) -> str | None:
    """Find uv on the path, or as a package; None where it is not installed."""
    return shutil.which("uv", path=environ.get("PATH")) or _packaged_uv()


def _packaged_uv() -> str | None:
    try:
        from uv import find_uv_bin
    except ImportError:
        return None
    try:
        return str(find_uv_bin())
    except FileNotFoundError:
        return None


@dataclass(frozen=True)
class UvInstaller:
    """uv: https://docs.astral.sh/uv/. Resolves with hashes, then installs exactly that."""

    program: Path
    environ: Mapping[str, str]

    @property
    def description(self) -> str:
        """`uv 0.9.1`."""
        done = subprocess.run([str(self.program), "--version"], capture_output=True, text=True, check=True)  # noqa: S603
        return " ".join(done.stdout.split()[:2])

    def create(self, path: Path, python: str, progress: Progress) -> None:
        """Make the environment, with an interpreter of this machine, else with one that uv brings."""
        interpreter = python if os.sep in python else find_python(python, self.environ) or python
        progress(f"making {path} with Python {interpreter}")
        try:
            run_step([str(self.program), "venv", "--quiet", "--seed", "--python", interpreter, str(path)], self.environ)
        except InfrastructureError as problem:
            if os.sep in interpreter:
                raise
            hint = f"apt install python3.12 python3.12-dev, or name one that fits {python} with --python"
            raise InfrastructureError(f"no Python {python} here, and uv brought none: {hint} ({problem})") from None
        _check_made(path)

    def install(self, path: Path, description: EnvironmentDescription, progress: Progress) -> None:
        """Resolve the requirements into a lock with hashes, and install the lock."""
        wanted, limits, lock = _written(path, description)
        target = ("--quiet", "--python", str(path / "bin/python"))
        progress(f"resolving {len(description.requirements)} requirements")
        run_step(
            [
                str(self.program),
                "pip",
                "compile",
                *target,
                "--generate-hashes",
                "-o",
                str(lock),
                "-c",
                str(limits),
                *_exclude(path, description),
                str(wanted),
            ],
            self.environ,
        )
        progress("installing")
        complete = ("--no-deps",) if description.excluded else ()  # the lock lists all; the excluded stay required
        install = (str(self.program), "pip", "install", *target, *complete, "--require-hashes", "--compile-bytecode")
        run_step([*install, "-r", str(lock)], self.environ)


@dataclass(frozen=True)
class PipInstaller:
    """venv and pip, of an interpreter that is on the path."""

    environ: Mapping[str, str]

    @property
    def description(self) -> str:
        """`pip`."""
        return "pip"

    def create(self, path: Path, python: str, progress: Progress) -> None:
        """Make the environment. Raises RequestError where no interpreter fits."""
        interpreter = python if os.sep in python else find_python(python, self.environ)
        if interpreter is None:
            raise RequestError(f"no Python {python} on the path: install one, name one with --python, or install uv")
        progress(f"making {path} with {interpreter}")
        run_step([interpreter, "-m", "venv", str(path)], self.environ)
        _check_made(path)

    def install(self, path: Path, description: EnvironmentDescription, progress: Progress) -> None:
        """Install the requirements."""
        if description.excluded:
            raise RequestError(f"environment {description.name}: pip cannot leave packages out: install uv")
        wanted, limits, _ = _written(path, description)
        progress(f"installing {len(description.requirements)} requirements")
        command = [
            str(path / "bin/python"),
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
        ]
        run_step([*command, "-c", str(limits), "-r", str(wanted)], self.environ)


def find_python(specifier: str, environ: Mapping[str, str]) -> str | None:
    """Find an interpreter on the path that fits a version specifier."""
    from packaging.specifiers import SpecifierSet

    fits = SpecifierSet(specifier)
    candidates = (sys.executable, *(shutil.which(f"python{version}", path=environ.get("PATH")) for version in VERSIONS))
    for candidate in filter(None, candidates):
        version = _version_of(candidate)  # asked, since a launcher of that name may have no interpreter behind it
        if version and fits.contains(version):
            return candidate
    return None


def _version_of(interpreter: str) -> str:
    """Ask an interpreter for its version, "" where it does not run."""
    command = [interpreter, "-I", "-c", "import platform; print(platform.python_version())"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _written(path: Path, description: EnvironmentDescription) -> tuple[Path, Path, Path]:
    wanted, limits = path / "requirements.txt", path / "constraints.txt"
    wanted.write_text("".join(f"{word}\n" for word in description.requirements), encoding="utf-8")
    limits.write_text("".join(f"{word}\n" for word in description.constraints), encoding="utf-8")
    return wanted, limits, path / LOCK


def _check_made(path: Path) -> None:
    """Raise InfrastructureError where an installer succeeded and made no environment."""
    if not (path / "bin/python").exists():
        raise InfrastructureError(
            f"{path}: the installer succeeded and made no bin/python; is it the real uv or Python?"
        )


def _exclude(path: Path, description: EnvironmentDescription) -> list[str]:
    """Return uv's options that leave the excluded packages out: each is required on no platform.

    https://docs.astral.sh/uv/concepts/resolution/#dependency-overrides
    """
    if not description.excluded:
        return []
    overrides = path / "overrides.txt"
    overrides.write_text("".join(f"{name}; sys_platform == 'never'\n" for name in description.excluded), "utf-8")
    return ["--overrides", str(overrides)]


def run_step(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """Run one step of making an environment and return what it printed.

    Raises InfrastructureError with the last lines of its errors. It ends with this process, however that ends: what
    went on installing would write into the next build.
    """
    what = f"{command[2]} {command[3]}" if command[1] == "-m" else f"{Path(command[0]).name} {command[1]}"
    try:
        done = subprocess.run(  # noqa: S603
            command,
            env=share_certificates(environ),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            preexec_fn=partial(end_with_parent, os.getpid()),
        )
    except (OSError, subprocess.SubprocessError) as problem:
        raise InfrastructureError(f"{what}: {problem}") from None
    if done.returncode:
        said = [LOG_HEAD.sub("", line) for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        told = [line.strip() for line in done.stdout.splitlines() if line.startswith(UNREACHED)][:1]
        picked = dict.fromkeys([*told, *said[:1], *said[-2:]])  # uv says first what failed, and last why
        words = " ".join(to_one_line(line, 250) for line in picked)
        raise InfrastructureError(f"{what}: {words or f'ended with {done.returncode} and said nothing'}")
    return done.stdout
