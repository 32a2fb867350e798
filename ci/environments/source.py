"""Where a subject's code comes from: a checkout on this machine, or a git address at a commit."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from ci.errors import InfrastructureError, RequestError
from ci.subjects.failure import to_one_line
from ci.subjects.provenance import read_commit, run_git

if TYPE_CHECKING:
    from collections.abc import Mapping

CLONE_SECONDS = 1800
REMOTE_NAME = re.compile(r"\w[\w./-]*")
"""What may be fetched by name; `a:b` would tell git to write."""
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
    wrong = f"--subject-source {to_one_line(source, 200)}: expected an address like https://host/owner/name@COMMIT"
    try:
        parts = urlsplit(source.removeprefix("git+"))
    except ValueError:
        raise RequestError(wrong) from None
    path, _, ref = parts.path.partition("@")
    if ref.startswith("-") or not ref.isprintable() or parts.scheme not in ("https", "http", "ssh", "file", "git"):
        raise RequestError(wrong)
    return urlunsplit(parts._replace(path=path)), ref


def pin_address(source: str, commit: str | None) -> str:
    """Name an address at the commit that was fetched from it; any other source stays as it is."""
    if not is_git_address(source) or not FULL_COMMIT.fullmatch(commit or ""):
        return source
    return f"{split_address(source)[0]}@{commit}"


def fetch_source(source: str, target: Path, environ: Mapping[str, str]) -> SubjectSource:
    """Clone an address into the new directory `target`, without submodules and large files.

    Raises InfrastructureError with git's own line.
    """
    address, ref = split_address(source)
    run_git(["clone", "--quiet", "--no-checkout", "--", address, str(target)], environ, CLONE_SECONDS)
    commit = _find_commit(target, ref, environ) if ref else "HEAD"
    run_git(["-C", str(target), "checkout", "--quiet", "--detach", commit], environ, CLONE_SECONDS)
    return SubjectSource(target, read_commit(target, environ))


def _find_commit(clone: Path, ref: str, environ: Mapping[str, str]) -> str:
    """Return the commit of a branch, a tag or a commit's name; what the clone did not bring is fetched by its name.

    As `git clone --branch`, a branch goes before a tag of the same name. A clone has local names of its default branch
    alone. Raises InfrastructureError where the address has none of that name.
    """
    names = (ref,) if FULL_COMMIT.fullmatch(ref) else (f"refs/remotes/origin/{ref}", f"refs/tags/{ref}", ref)
    for name in names:
        with suppress(InfrastructureError):
            return _resolve(clone, name, environ)
    try:
        if not REMOTE_NAME.fullmatch(ref):
            raise InfrastructureError("git knows none, and it cannot be the name of one")
        run_git(["-C", str(clone), "fetch", "--quiet", "origin", ref], environ, CLONE_SECONDS)  # refs/pull/1/head
        return _resolve(clone, "FETCH_HEAD", environ)
    except InfrastructureError as problem:
        what = f"no branch, tag or commit '{to_one_line(ref, 100)}' there"
        raise InfrastructureError(f"--subject-source: {what}: {problem}") from None


def _resolve(clone: Path, name: str, environ: Mapping[str, str]) -> str:
    return run_git(["-C", str(clone), "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], environ).strip()
