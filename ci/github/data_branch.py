"""The branch that holds the nightly history: read its files, append lines, without a checkout and without lost lines.

A commit is made through the Git data API, and the branch is moved to it without force. If somebody pushed in between,
GitHub refuses, and the lines are appended again to the new content
(https://docs.github.com/en/rest/git/refs#update-a-reference).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from ci.errors import InfrastructureError
from ci.github.api import ConflictError, NotFoundError
from ci.report.history import history_line, read_history

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ci.github.client import Client
    from ci.report.history import Baseline, HistoryRecord

MAX_PUSHES = 8
HISTORY_FOLDER = "history"
HISTORY_MONTHS = 12
"""The history is one file a month; so many of the newest are read."""


@dataclass(frozen=True)
class _Object:
    sha: str


@dataclass(frozen=True)
class _Ref:
    object: _Object


@dataclass(frozen=True)
class _Commit:
    sha: str
    tree: _Object


@dataclass(frozen=True)
class _TreeEntry:
    path: str
    sha: str
    type: str


@dataclass(frozen=True)
class _Tree:
    sha: str
    tree: tuple[_TreeEntry, ...] = ()
    truncated: bool = False


@dataclass(frozen=True)
class _Blob:
    content: str
    encoding: str = "base64"


def read_files(client: Client, branch: str, folder: str, *, suffix: str = "", newest: int = 100) -> dict[str, str]:
    """Read the last `newest` files of `folder` by path; none without the branch."""
    head = _get_head(client, branch)
    if head is None:
        return {}
    blobs = _list_blobs(client, head.tree.sha)
    paths = sorted(path for path in blobs if path.startswith(f"{folder}/") and path.endswith(suffix))
    return {path: _read_blob(client, blobs[path]) for path in paths[-newest:]}


def read_nightly_history(client: Client, branch: str) -> Baseline:
    """Read the nights of the last year from the data branch."""
    files = read_files(client, branch, HISTORY_FOLDER, suffix=".jsonl", newest=HISTORY_MONTHS)
    return read_history(files.values())


def append_history(
    client: Client,
    branch: str,
    records: Sequence[HistoryRecord],
    message: str,
    make_pages: Callable[[Baseline], Mapping[str, str]] | None = None,
) -> str:
    """Append the records of one night to the file of its month and return the commit.

    `make_pages` makes whole files of the same commit, by path, from all nights with these records.
    """
    lines: dict[str, str] = {}
    for record in records:
        path = f"{HISTORY_FOLDER}/{record.date[:7]}.jsonl"
        lines[path] = lines.get(path, "") + history_line(record)
    new = list(lines.values())

    def make_files() -> Mapping[str, str]:
        if make_pages is None:
            return {}
        files = read_files(client, branch, HISTORY_FOLDER, suffix=".jsonl", newest=HISTORY_MONTHS)
        return make_pages(read_history([*files.values(), *new]))

    return append_lines(client, branch, lines, message, make_files)


def append_lines(
    client: Client,
    branch: str,
    lines: Mapping[str, str],
    message: str,
    make_files: Callable[[], Mapping[str, str]] = dict,
) -> str:
    """Append `lines` (path to text) in one commit and return its SHA.

    The branch is created if it does not exist. `make_files` makes whole files (path to text) anew for each try.
    """
    for _ in range(MAX_PUSHES):
        head = _get_head(client, branch)
        tree = _create_tree(client, head, lines, make_files())
        commit = _create_commit(client, tree, [head.sha] if head else [], message)
        if _move_branch(client, branch, commit, create=head is None):
            return commit
    raise InfrastructureError(f"branch '{branch}': {MAX_PUSHES} pushes in a row came in between, run again later")


def _get_head(client: Client, branch: str) -> _Commit | None:
    try:
        ref = client.get(_Ref, f"/git/ref/{_quote_ref(branch)}")
    except NotFoundError:
        return None
    except ConflictError:  # an empty repository has no refs at all
        return None
    return client.get(_Commit, f"/git/commits/{ref.object.sha}")


def _list_blobs(client: Client, tree_sha: str) -> dict[str, str]:
    tree = client.get(_Tree, f"/git/trees/{tree_sha}", recursive="1")
    if tree.truncated:
        raise InfrastructureError("the data branch has more files than one listing shows: delete old ones")
    return {entry.path: entry.sha for entry in tree.tree if entry.type == "blob"}


def _read_blob(client: Client, sha: str) -> str:
    blob = client.get(_Blob, f"/git/blobs/{sha}")
    if blob.encoding != "base64":
        raise InfrastructureError(f"blob {sha}: unexpected encoding {blob.encoding!r}")
    return base64.b64decode(blob.content).decode("utf-8", "replace")


def _create_tree(client: Client, head: _Commit | None, lines: Mapping[str, str], files: Mapping[str, str]) -> str:
    """Create a tree with `lines` appended to the branch's files, and whole `files`; others stay as they are."""
    blobs = _list_blobs(client, head.tree.sha) if head else {}
    changed = [
        {"path": path, "mode": "100644", "type": "blob", "content": _append_to_blob(client, blobs.get(path), text)}
        for path, text in lines.items()
    ]
    changed += [{"path": path, "mode": "100644", "type": "blob", "content": text} for path, text in files.items()]
    base = {"base_tree": head.tree.sha} if head else {}
    return client.write(_Object, "POST", "/git/trees", {"tree": changed, **base}).sha


def _append_to_blob(client: Client, sha: str | None, text: str) -> str:
    before = _read_blob(client, sha) if sha else ""
    return before + ("" if not before or before.endswith("\n") else "\n") + text


def _create_commit(client: Client, tree: str, parents: list[str], message: str) -> str:
    body = {"message": message, "tree": tree, "parents": parents}
    return client.write(_Object, "POST", "/git/commits", body).sha


def _move_branch(client: Client, branch: str, commit: str, *, create: bool) -> bool:
    """Point the branch at `commit`. Return False if another writer was faster."""
    try:
        if create:
            client.send("POST", "/git/refs", body={"ref": f"refs/heads/{branch}", "sha": commit})
        else:
            client.send("PATCH", f"/git/refs/{_quote_ref(branch)}", body={"sha": commit, "force": False})
    except ConflictError:
        return False
    return True


def _quote_ref(branch: str) -> str:
    """Quote a branch's name as one segment of a path."""
    return quote(f"heads/{branch}", safe="")
