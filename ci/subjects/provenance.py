"""Where a package under test comes from: versions of libraries, and the commit of the tree it is imported from."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 20


def python_version() -> str:
    """The running interpreter's version, `3.12.1`."""
    return platform.python_version()


def libraries(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of those of `names` (distributions) that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit_of(package: Path, name: str) -> str | None:
    """The commit of the checkout that holds the directory `package`, `-dirty` when changed; None where unknown.

    The checkout is the directory right above, lest an environment inside some other repository answer for it.
    A package installed from git names its commit in direct_url.json:
    https://packaging.python.org/en/latest/specifications/direct-url/
    """
    if (package.parent / ".git").exists():
        return _described(package.parent)
    try:
        origin = json.loads(distribution(name).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    commit = origin.get("vcs_info", {}).get("commit_id")
    return commit if isinstance(commit, str) else None


def _described(checkout: Path) -> str | None:
    command = ["git", "-c", "safe.directory=*", "-C", str(checkout)]
    describe = [*command, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(describe, capture_output=True, text=True, timeout=SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
