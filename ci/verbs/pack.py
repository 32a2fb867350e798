"""`hub-tests pack`: one commit of a private repository as a file, for the job that may not read the repository.

The file is a git pack: the commit and its files, without history. git names each object by the hash of its content,
so whoever knows the commit from elsewhere can tell whether the pack holds exactly it, and no other file can stand in.
https://git-scm.com/docs/gitformat-pack
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError, RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from ci.plan import Plan

GIT_SECONDS = 300
GIT = ("git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "safe.directory=*")
QUIET = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def pack_subject(plan: Plan, checkout: Path, out: Path, event_path: Path, path: str) -> str:
    """Write the planned commit of `checkout` to `out`; return the hash of its tree.

    `path` finds git. Raises RequestError for another commit, and for a public calling repository.
    """
    _check_readers(plan, event_path)
    sha = plan.request.sha
    objects = _run(checkout, path, "rev-list", "--objects", "--no-object-names", "--no-walk", f"{sha}^{{commit}}")
    out.write_bytes(_run(checkout, path, "pack-objects", "--stdout", "--quiet", stdin=objects))
    return _run(checkout, path, "rev-parse", f"{sha}^{{tree}}").decode().strip()


def unpack_subject(pack: Path, sha: str, target: Path, path: str) -> str:
    """Make the checkout `target` of the commit `sha`; return the hash of its tree.

    git computes the name of each object from its bytes: a pack without exactly this commit raises RequestError.
    """
    try:
        content = pack.read_bytes()
    except OSError as error:
        raise InfrastructureError(f"{pack}: the private subject was not handed over: {error.strerror}") from None
    target.mkdir(parents=True)
    try:
        _run(target, path, "init", "--quiet", "--template=")
        (target / ".git/shallow").write_text(f"{sha}\n", encoding="ascii")  # its parents are not here
        _run(target, path, "index-pack", "--stdin", "--fix-thin", stdin=content)
        _run(target, path, "rev-list", "--objects", "--no-walk", "--quiet", f"{sha}^{{commit}}")
        _run(target, path, "checkout", "--quiet", "--detach", sha)
        tree = _run(target, path, "rev-parse", f"{sha}^{{tree}}").decode().strip()
    except RequestError as problem:
        raise RequestError(
            f"{pack}: does not hold the planned commit {sha}: {problem}: nothing of it was run"
        ) from None
    return tree


def _check_readers(plan: Plan, event_path: Path) -> None:
    """Refuse to put another repository's commit where the public could download it."""
    request = plan.request
    try:
        is_private = json.loads(event_path.read_text(encoding="utf-8"))["repository"]["private"]
    except (OSError, ValueError, KeyError, TypeError):
        is_private = False
    if not is_private and request.subject_repository.casefold() != request.repository.casefold():
        raise RequestError(
            f"{request.repository} is public, and its artifacts with it: call the service for the private "
            f"{request.subject_repository} from a private repository"
        )


def _run(checkout: Path, path: str, *words: str, stdin: bytes = b"") -> bytes:
    try:
        done = subprocess.run(  # noqa: S603
            [*GIT, "-C", str(checkout), *words],
            input=stdin,
            env={"PATH": path, "HOME": "/nonexistent", **QUIET},
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as problem:
        raise InfrastructureError(f"{checkout}: git does not answer: {problem}") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise RequestError(f"git {words[0]}: {said[-1][:200]}")
    return done.stdout
