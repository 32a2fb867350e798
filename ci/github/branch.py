"""A branch that holds data only: files read from it, lines appended to it, with no checkout and no lost line.

A commit is made through the Git data API and the branch moved to it without force, so a push that came in between
makes GitHub refuse, and the lines are appended again to what is there now
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
    from collections.abc import Mapping, Sequence

    from ci.github.client import Client
    from ci.report.history import Baseline, HistoryRecord

RACES = 8
HISTORY = "history"
MONTHS = 12
"""Files of history that are read: one a month."""


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
class _Node:
    path: str
    sha: str
    type: str


@dataclass(frozen=True)
class _Tree:
    sha: str
    tree: tuple[_Node, ...] = ()
    truncated: bool = False


@dataclass(frozen=True)
class _Blob:
    content: str
    encoding: str = "base64"


def read_files(client: Client, branch: str, folder: str, *, suffix: str = "", newest: int = 100) -> dict[str, str]:
    """Texts of the last `newest` files under `folder/` by path; nothing where the branch does not exist yet."""
    head = _head(client, branch)
    if head is None:
        return {}
    nodes = _nodes(client, head.tree.sha)
    wanted = sorted(path for path in nodes if path.startswith(f"{folder}/") and path.endswith(suffix))
    return {path: _text(client, nodes[path]) for path in wanted[-newest:]}


def read_history_of(client: Client, branch: str) -> Baseline:
    """The nights on record on the data branch, the last year of them."""
    return read_history(read_files(client, branch, HISTORY, suffix=".jsonl", newest=MONTHS).values())


def append_history(client: Client, branch: str, records: Sequence[HistoryRecord], message: str) -> str:
    """Append the records of one night to its month's file and return the commit."""
    lines: dict[str, str] = {}
    for record in records:
        path = f"{HISTORY}/{record.date[:7]}.jsonl"
        lines[path] = lines.get(path, "") + history_line(record)
    return append(client, branch, lines, message)


def append(client: Client, branch: str, lines: Mapping[str, str], message: str) -> str:
    """Append `lines` (path to text) in one commit and return its SHA; the branch is made where there is none."""
    for _ in range(RACES):
        head = _head(client, branch)
        tree = _grown_tree(client, head, lines)
        commit = _commit(client, tree, [head.sha] if head else [], message)
        if _move(client, branch, commit, create=head is None):
            return commit
    raise InfrastructureError(f"branch '{branch}': {RACES} pushes in a row came in between, run again later")


def _head(client: Client, branch: str) -> _Commit | None:
    try:
        ref = client.get(_Ref, f"/git/ref/{_ref(branch)}")
    except NotFoundError:
        return None
    except ConflictError:  # an empty repository has no refs at all
        return None
    return client.get(_Commit, f"/git/commits/{ref.object.sha}")


def _nodes(client: Client, tree: str) -> dict[str, str]:
    found = client.get(_Tree, f"/git/trees/{tree}", recursive="1")
    if found.truncated:
        raise InfrastructureError("the data branch has more files than one listing shows: prune it")
    return {node.path: node.sha for node in found.tree if node.type == "blob"}


def _text(client: Client, sha: str) -> str:
    blob = client.get(_Blob, f"/git/blobs/{sha}")
    if blob.encoding != "base64":
        raise InfrastructureError(f"blob {sha}: unexpected encoding {blob.encoding!r}")
    return base64.b64decode(blob.content).decode("utf-8", "replace")


def _grown_tree(client: Client, head: _Commit | None, lines: Mapping[str, str]) -> str:
    """A tree with `lines` appended to what the branch holds now; other files stay as they are."""
    nodes = _nodes(client, head.tree.sha) if head else {}
    changed = [
        {"path": path, "mode": "100644", "type": "blob", "content": _joined(client, nodes.get(path), text)}
        for path, text in lines.items()
    ]
    base = {"base_tree": head.tree.sha} if head else {}
    return client.write(_Object, "POST", "/git/trees", {"tree": changed, **base}).sha


def _joined(client: Client, blob: str | None, text: str) -> str:
    had = _text(client, blob) if blob else ""
    return had + ("" if not had or had.endswith("\n") else "\n") + text


def _commit(client: Client, tree: str, parents: list[str], message: str) -> str:
    body = {"message": message, "tree": tree, "parents": parents}
    return client.write(_Object, "POST", "/git/commits", body).sha


def _move(client: Client, branch: str, commit: str, *, create: bool) -> bool:
    """Whether the branch now points at `commit`; False where another writer was faster."""
    try:
        if create:
            client.send("POST", "/git/refs", body={"ref": f"refs/heads/{branch}", "sha": commit})
        else:
            client.send("PATCH", f"/git/refs/{_ref(branch)}", body={"sha": commit, "force": False})
    except ConflictError:
        return False
    return True


def _ref(branch: str) -> str:
    """A branch's name as one segment of a path."""
    return quote(f"heads/{branch}", safe="")
