"""Where a subject's code comes from: a checkout on this machine, or a git address at a commit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from ci.errors import RequestError
from ci.subjects.provenance import read_commit, run_git

if TYPE_CHECKING:
    from collections.abc import Mapping

CLONE_SECONDS = 1800
FULL_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


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


def pin_address(source: str, commit: str | None) -> str:
    """Name an address at the commit that was fetched from it; any other source stays as it is."""
    if not is_git_address(source) or not FULL_COMMIT.fullmatch(commit or ""):
        return source
    return f"{split_address(source)[0]}@{commit}"


def fetch_source(source: str, target: Path, environ: Mapping[str, str]) -> SubjectSource:
    """Clone an address into the new directory `target`, without submodules and large files.

    Raises InfrastructureError with git's last line.
    """
    address, ref = split_address(source)
    run_git(["clone", "--quiet", "--no-checkout", "--", address, str(target)], environ, CLONE_SECONDS)
    run_git(["-C", str(target), "checkout", "--quiet", "--detach", ref or "HEAD"], environ, CLONE_SECONDS)
    return SubjectSource(target, read_commit(target, environ))
