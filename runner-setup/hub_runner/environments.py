"""Builds the subjects' environments of this host, from hub-tests' descriptions and those of the default branch.

It runs as a user of its own. Jobs see the result read-only, and no code of a subject runs here.
"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ci.certificates import share_certificates
from ci.environments.base import prune_bases
from ci.environments.description import load_description
from ci.environments.prepare import provide_base
from ci.environments.wheel_folder import keep_wheels, prune_wheels
from ci.errors import InfrastructureError, RequestError
from ci.settings import from_environ

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ci.environments.description import EnvironmentDescription
    from hub_runner.config import Config
    from hub_runner.layout import Layout

DAY = 86400.0
GIT_SECONDS = 600
SUFFIX = ".toml"


def refresh_environments(
    config: Config, layout: Layout, environ: Mapping[str, str], progress: Callable[[str], None]
) -> tuple[str, ...]:
    """Build what the config lists and remove what it no longer lists.

    Returns one line for each.
    Raises RequestError for a description that is none, InfrastructureError where something cannot be fetched.
    """
    settings = replace(from_environ(environ), environments=layout.environments, shared_environments=None)
    descriptions = _load_descriptions(config, environ)
    _check_images(config, descriptions)
    bases = []
    for description in descriptions:
        base = provide_base(description, settings, environ, progress)
        keep_wheels(base, layout.wheels, environ, progress)
        bases.append(base)
    keep = frozenset(base.manifest.digest for base in bases)
    older_than = config.environments.keep_days * DAY
    gone = prune_bases(layout.environments, older_than=older_than, keep=keep, dry_run=False)
    prune_wheels(layout.wheels, layout.environments)
    return (*(f"{base.path}: ready" for base in bases), *(f"{base.path}: removed" for base in gone))


def _load_descriptions(config: Config, environ: Mapping[str, str]) -> list[EnvironmentDescription]:
    """Read each description; the repository is cloned only where one of them is its file."""
    with ExitStack() as stack:
        checkout = None
        if any(name.endswith(SUFFIX) for name in config.environments.build):
            checkout = Path(stack.enter_context(TemporaryDirectory(prefix="hub-runner-")))
            clone_default_branch(f"{config.github.url}/{config.github.repository}", checkout, environ)
        return [
            load_description(str(checkout / name) if checkout and name.endswith(SUFFIX) else name)
            for name in config.environments.build
        ]


def _check_images(config: Config, descriptions: list[EnvironmentDescription]) -> None:
    """Raise RequestError for a container image on a host whose unit may make no sandbox for it."""
    images = [description.name for description in descriptions if description.image]
    if images and not config.environments.images:
        fix = "set environments.images = true in hub-runner.toml and run install.sh, or take it from environments.build"
        raise RequestError(f"environment {images[0]} is a container image, which this host's unit may not build: {fix}")


def clone_default_branch(address: str, target: Path, environ: Mapping[str, str]) -> None:
    """Clone the newest commit of the default branch. Raises InfrastructureError with git's last line."""
    command = ["git", "-c", "core.hooksPath=/dev/null", "clone", "--quiet", "--depth=1", "--", address, str(target)]
    quiet = {**share_certificates(environ), "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
    try:
        subprocess.run(command, env=quiet, check=True, capture_output=True, text=True, timeout=GIT_SECONDS)  # noqa: S603
    except subprocess.CalledProcessError as failure:
        said = (failure.stderr.strip().splitlines() or ["git failed"])[-1]
        raise InfrastructureError(f"{address}: {said[:300]}; is the repository public?") from None
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise InfrastructureError(f"{address}: git does not answer: {failure}") from None
