"""The candidates between a good and a bad end: commits of a git repository, or versions of a package.

The commits of a model are asked from the Hub's API, which a token opens for gated models too.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from ci.environments.installer import find_uv
from ci.environments.source import is_git_address, split_address
from ci.errors import InfrastructureError, RequestError
from ci.subjects.provenance import run_git

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.hub.commits import HubCommit
    from ci.hub.remote import HubClient

MAX_CANDIDATES = 100_000
CLONE_SECONDS = 1800
INDEX_SECONDS = 120
PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_REF = re.compile(r"[A-Za-z0-9][\w./+@^~-]{0,199}")


def open_history(source: str, mirror: Path, environ: Mapping[str, str]) -> Path:
    """Return a repository with the history of a checkout or an address.

    An address is mirrored without its files.
    """
    if not is_git_address(source):
        if not (Path(source) / ".git").exists():
            raise RequestError(f"--subject-source {source}: not a git checkout, so it has no commits to search")
        return Path(source).absolute()
    address = split_address(source)[0]
    if not (mirror / "HEAD").is_file():
        arguments = ["clone", "--quiet", "--bare", "--filter=tree:0", "--", address, str(mirror)]
        run_git(arguments, environ, CLONE_SECONDS)
    return mirror


def list_commits(repository: Path, good: str, bad: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """List the commits after `good` up to `bad`, oldest first, along the first parents.

    Raises RequestError for a name that is no commit, or where `good` is not an ancestor of `bad`.
    """
    here = ["-c", "safe.directory=*", "-C", str(repository)]
    ends = [_resolve(here, name, environ) for name in (good, bad)]
    listed = run_git([*here, "rev-list", "--first-parent", "--reverse", ends[1], f"^{ends[0]}"], environ)
    commits = tuple(listed.split())
    base = run_git([*here, "merge-base", *ends], environ).strip()
    if not commits or base != ends[0]:
        raise RequestError(f"--good {good} --bad {bad}: the good commit must be an ancestor of the bad one")
    if len(commits) > MAX_CANDIDATES:
        raise RequestError(f"--good {good} --bad {bad}: {len(commits)} commits lie between; name nearer ends")
    return commits


def describe_commit(repository: Path, commit: str, environ: Mapping[str, str]) -> str:
    """Describe a commit in one line: its short name, its date and its subject."""
    here = ["-c", "safe.directory=*", "-C", str(repository)]
    return run_git([*here, "log", "-1", "--format=%h %cs %s", "--abbrev=12", commit], environ).strip()


def _resolve(here: list[str], name: str, environ: Mapping[str, str]) -> str:
    """Return the commit that a name means, also where only a remote's branch is called so."""
    if _REF.fullmatch(name):
        for word in (name, f"origin/{name}"):
            try:
                return run_git([*here, "rev-parse", "--verify", "--quiet", f"{word}^{{commit}}"], environ).strip()
            except InfrastructureError:
                continue
    raise RequestError(f"'{name[:80]}' is no commit, branch or tag of the repository")


def list_revisions(client: HubClient, model_id: str, good: str, bad: str) -> tuple[HubCommit, ...]:
    """List a model's commits on the Hub after `good` up to `bad`, oldest first.

    Both are branches, tags or commits.
    Raises RequestError for a revision that does not exist, or where `good` is not an ancestor of `bad`.
    """
    ends = [client.get_repository(model_id, name).commit for name in (good, bad)]
    commits = client.list_commits(model_id, ends[1], ends[0])
    before = [at for at, commit in enumerate(commits) if commit.id == ends[0]]
    if ends[0] == ends[1] or not before:
        raise RequestError(f"--good {good} --bad {bad}: the good revision of {model_id} must be before the bad one")
    return tuple(reversed(commits[: before[0]]))


def list_versions(
    package: str, good: str, bad: str, environ: Mapping[str, str], *, known: Sequence[str] | None = None
) -> tuple[str, ...]:
    """List the versions of a package after `good` up to `bad`, oldest first.

    Pre-releases only where one is an end. `known` are the versions of the package, None asks the package index.
    """
    low, high = (_parse(version) for version in (good, bad))
    if not low < high:
        raise RequestError(f"--good {good} --bad {bad}: the good version must be the older one")
    versions = {_parse(word) for word in (_ask_index(package, environ) if known is None else known)}
    if high not in versions:
        raise RequestError(f"--bad {bad}: the index has no such version of {package}")
    early = low.is_prerelease or high.is_prerelease
    return tuple(str(one) for one in sorted(versions) if low < one <= high and (early or not one.is_prerelease))


def _parse(word: str) -> Version:
    try:
        return Version(word)
    except InvalidVersion:
        raise RequestError(f"'{word[:80]}' is no version, like 5.20.0") from None


def _ask_index(package: str, environ: Mapping[str, str]) -> list[str]:
    """Ask the package index, through pip, for the versions of a package.

    Also for those that this Python cannot have: the subject's environment may have another one.
    """
    pip = _find_pip(environ)
    command = [*pip, "index", "versions", package, "--disable-pip-version-check", "--pre", "--ignore-requires-python"]
    try:
        done = subprocess.run(  # noqa: S603 -- our own interpreter; the name was checked
            command, capture_output=True, text=True, timeout=INDEX_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise InfrastructureError(f"the package index did not answer for {package} in {INDEX_SECONDS} s") from None
    listed = re.search(r"^Available versions: (.+)$", done.stdout, re.MULTILINE)
    if done.returncode or not listed:
        said = next(reversed(done.stderr.strip().splitlines()), "no versions")
        raise InfrastructureError(f"the package index names no version of {package}: {said[:200]}")
    return [word.strip() for word in listed[1].split(",")]


def _find_pip(environ: Mapping[str, str]) -> list[str]:
    """Return the words that call pip.

    Where hub-tests is a tool of uv it has none of its own, and uv's is called.
    """
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if uv := find_uv(environ):
        return [uv, "tool", "run", "--quiet", "pip"]
    raise RequestError("bisect over a package asks the index through pip: install pip or uv beside hub-tests")
