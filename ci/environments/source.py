"""Where a subject's code comes from: a checkout on this machine, or a git address at a commit."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from ci.errors import InfrastructureError, RequestError
from ci.judge_environment import find_system_program, make_git_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

GIT_SECONDS = 1800
GIT = (
    find_system_program("git"),
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "protocol.ext.allow=never",
)
"""No hook, monitor or remote helper that a checkout could name is run."""
QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}


@dataclass(frozen=True)
class SubjectSource:
    """A checkout and its commit, with `-dirty` where files were changed; None where it is no git checkout."""

    path: Path
    commit: str | None


def is_git_address(source: str) -> bool:
    """Return whether a source is an address to clone, not a directory."""
    return "://" in source


def split_address(source: str) -> tuple[str, str]:
    """Split `https://host/owner/name@REF` into the address and the branch, tag or commit ("": the default branch).

    Raises RequestError for an address that git would take for an option.
    """
    parts = urlsplit(source.removeprefix("git+"))
    path, _, ref = parts.path.partition("@")
    if ref.startswith("-") or parts.scheme not in ("https", "http", "ssh", "file", "git"):
        raise RequestError(f"--subject-source {source[:200]}: expected an address like https://host/owner/name@COMMIT")
    return urlunsplit(parts._replace(path=path)), ref


def fetch_source(source: str, target: Path, environ: Mapping[str, str]) -> SubjectSource:
    """Clone an address into the new directory `target`, without submodules and large files.

    Raises InfrastructureError with git's last line.
    """
    address, ref = split_address(source)
    _run_git(["clone", "--quiet", "--no-checkout", "--", address, str(target)], environ)
    _run_git(["-C", str(target), "checkout", "--quiet", "--detach", ref or "HEAD"], environ)
    return SubjectSource(target, read_commit(target, environ))


def read_commit(checkout: Path, environ: Mapping[str, str]) -> str | None:
    """Read the commit of a checkout; None where there is none."""
    here = ["-c", "safe.directory=*", "-C", str(checkout)]
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    if not (checkout / ".git").exists():
        return None
    try:
        return _run_git([*_switch_filters_off(here, environ), *here, *describe], environ).strip() or None
    except InfrastructureError:
        return None


def _switch_filters_off(here: list[str], environ: Mapping[str, str]) -> list[str]:
    """List the options that switch off the filters of a checkout's configuration: git would run their programs."""
    try:
        names = _run_git([*here, "config", "--name-only", "--null", "--get-regexp", r"^filter\."], environ)
    except InfrastructureError:
        return []  # there is none
    return [word for name in names.split("\0") if name for word in ("-c", f"{name}=")]


def _run_git(arguments: list[str], environ: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            [*GIT, *arguments],
            env={**make_git_environment(environ), **QUIET},
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as problem:
        raise InfrastructureError(f"git does not run: {problem}") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InfrastructureError(f"git {arguments[0]}: {said[:300]}")
    return done.stdout
