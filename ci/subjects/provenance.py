"""Finds where a package comes from: versions of libraries, and the commit of the checkout it is imported from."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import TYPE_CHECKING

from ci.judge_environment import find_system_program

if TYPE_CHECKING:
    from pathlib import Path

GIT_SECONDS = 20


def python_version() -> str:
    """Return the running interpreter's version, such as `3.12.1`."""
    return platform.python_version()


def installed_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those distributions in `names` that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def find_commit(package: Path, name: str) -> str | None:
    """Return the commit of the checkout of `package` (with `-dirty` when changed), None where unknown.

    The checkout must be the directory directly above: an environment may lie inside an unrelated repository.
    A package installed from git names its commit in direct_url.json:
    https://packaging.python.org/en/latest/specifications/direct-url/
    """
    if (package.parent / ".git").exists():
        return _git_describe(package.parent)
    try:
        origin = json.loads(distribution(name).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    commit = origin.get("vcs_info", {}).get("commit_id")
    return commit if isinstance(commit, str) else None


def _git_describe(checkout: Path) -> str | None:
    command = [find_system_program("git"), "-c", "safe.directory=*", "-C", str(checkout)]
    describe = [*command, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(describe, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
