"""Finds where a package comes from: versions of libraries, and the commit of the checkout it is imported from."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import TYPE_CHECKING

from ci.certificates import share_certificates
from ci.errors import InfrastructureError
from ci.judge_environment import SYSTEM_PATH, find_system_program, make_git_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GIT_SECONDS = 60
GIT = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "protocol.ext.allow=never")
"""No hook, monitor or remote helper that a checkout could name is run."""
GIT_VERBS = ("clone", "checkout", "fetch", "rev-parse")
QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}


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
        return read_commit(package.parent, {"PATH": SYSTEM_PATH})
    try:
        origin = json.loads(distribution(name).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    commit = origin.get("vcs_info", {}).get("commit_id")
    return commit if isinstance(commit, str) else None


def read_commit(checkout: Path, environ: Mapping[str, str]) -> str | None:
    """Read the commit of a checkout; None where there is none."""
    here = ["-c", "safe.directory=*", "-C", str(checkout)]
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    if not (checkout / ".git").exists():
        return None
    try:
        return run_git([*_switch_filters_off(here, environ), *here, *describe], environ).strip() or None
    except InfrastructureError:
        return None


def run_git(arguments: list[str], environ: Mapping[str, str], seconds: float = GIT_SECONDS) -> str:
    """Run git and return what it answers. Raises InfrastructureError with the line that says what is wrong."""
    try:
        done = subprocess.run(  # noqa: S603
            [find_system_program("git"), *GIT, *arguments],
            env={**share_certificates(make_git_environment(environ)), **QUIET},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as problem:
        raise InfrastructureError(f"git does not run: {problem}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        said = next((line for line in lines if line.startswith("fatal: ")), lines[-1])  # advice may follow
        verb = next((word for word in GIT_VERBS if word in arguments), arguments[0])
        raise InfrastructureError(f"git {verb}: {said[:300]}")
    return done.stdout


def _switch_filters_off(here: list[str], environ: Mapping[str, str]) -> list[str]:
    """List the options that switch off the filters of a checkout's configuration: git would run their programs."""
    try:
        names = run_git([*here, "config", "--name-only", "--null", "--get-regexp", r"^filter\."], environ)
    except InfrastructureError:
        return []  # there is none
    return [word for name in names.split("\0") if name for word in ("-c", f"{name}=")]
