"""Base environments from container images: fetched by skopeo, unpacked by umoci, entered by the sandbox.

No daemon takes part. Nothing of an image runs while it is fetched and unpacked.
https://github.com/containers/skopeo, https://github.com/opencontainers/umoci
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ci.environments.installer import find_installer, run_step
from ci.errors import InfrastructureError, RequestError
from ci.judge_environment import find_system_program
from ci.subjects.image_root import ROOT, find_image_root, inside_path, is_program, read_image_variables
from ci.subjects.sandbox import SandboxPolicy, choose_isolation, sandbox_command

if TYPE_CHECKING:
    from ci.environments.description import EnvironmentDescription
    from ci.environments.installer import Installer, Progress

PROGRAMS = ("skopeo", "umoci")
DIGEST = "image.digest"
"""The file beside an unpacked image with the digest by which the registry knows it: unpacking needs another form."""
SET_IDS = stat.S_ISUID | stat.S_ISGID
VERSION_SECONDS = 60


@dataclass(frozen=True)
class ImageInstaller:
    """Brings a container image. `environ` has proxies, certificates and the registry's login for skopeo."""

    environ: Mapping[str, str] = field(repr=False)

    @property
    def description(self) -> str:
        """`skopeo 1.9.3, umoci 0.4.7`."""
        return ", ".join(f"{name} {_ask_version(name)}" for name in PROGRAMS)

    def create(self, path: Path, python: str, progress: Progress) -> None:
        """Make the directory; the image brings everything that is in it.

        Raises InfrastructureError where no sandbox could enter it, before anything is fetched.
        """
        del python, progress
        choose_isolation("required")
        path.parent.mkdir(parents=True, exist_ok=True)

    def install(self, path: Path, description: EnvironmentDescription, progress: Progress) -> None:
        """Fetch the image and unpack it at `path`.

        Raises InfrastructureError where it cannot be had, RequestError where it has no such interpreter.
        """
        progress(f"fetching {description.image}")
        with TemporaryDirectory(prefix="hub-tests-image.", dir=path.parent) as folder:
            layout = f"{folder}/layout:image"
            fetch = (find_system_program("skopeo"), "copy", "--quiet", description.image, f"oci:{layout}")
            digest = run_step((fetch[0], "inspect", "--format", "{{.Digest}}", description.image), self.environ)
            run_step(fetch, self.environ)
            progress(f"unpacking it into {path}")
            unpack = (find_system_program("umoci"), "unpack", "--rootless", "--image", layout, str(path))
            run_step(unpack, self.environ)
        (path / DIGEST).write_text(digest, encoding="utf-8")
        _remove_set_ids(path / ROOT)
        path.chmod(0o755)  # umoci's is closed for others: the sandbox's user enters
        if not is_program(path / ROOT / description.python.lstrip("/")):
            raise RequestError(f"{description.image}: has no interpreter {description.python}: name it as `python`")


def _remove_set_ids(root: Path) -> None:
    """Take set-user-id and set-group-id from all files of an unpacked image, before others may enter it.

    Its files belong to whoever unpacked it: a program that keeps the bit would run as that user for everybody.
    """
    for directory, _, names in os.walk(root):
        for file in (Path(directory), *(Path(directory) / name for name in names)):
            mode = 0 if file.is_symlink() else stat.S_IMODE(file.lstat().st_mode)
            if mode & SET_IDS:
                file.chmod(mode & ~SET_IDS)


def choose_installer(description: EnvironmentDescription, environ: Mapping[str, str]) -> Installer:
    """Choose what makes a description's environment: an image is unpacked, anything else installed."""
    return ImageInstaller(environ) if description.image else find_installer(environ)


def read_image_digest(path: Path) -> str:
    """Return the digest of the image that was unpacked at `path`, "" where none was."""
    return (path / DIGEST).read_text(encoding="utf-8").strip() if (path / DIGEST).is_file() else ""


def enter_image(python: Path, arguments: list[str]) -> list[str]:
    """Return the command line that runs an image's interpreter in a sandbox. Raises InfrastructureError without one."""
    root = find_image_root(python)
    if root is None:
        raise ValueError(f"{python} is in no image")
    isolation = choose_isolation("required")
    variables = {**read_image_variables(root), "LC_ALL": "C.UTF-8"}
    return sandbox_command(
        isolation, SandboxPolicy(gpus=False, root=root), [inside_path(root, python), *arguments], variables
    )


def _ask_version(name: str) -> str:
    try:
        command = [find_system_program(name), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as problem:
        raise InfrastructureError(f"{name} does not run: {problem}; apt install {' '.join(PROGRAMS)}") from None
    return done.stdout.split()[2]
