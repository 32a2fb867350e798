"""What the gate asks of GitHub and says on a pull request: roles, heads, reactions, the comments kept in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from ci.errors import RequestError
from ci.github.api import NotFoundError
from ci.github.board import marker
from ci.github.facts import PullRequest, Role
from ci.report.limits import COMMENT_CHARS
from ci.report.truncate_markdown import count_characters

if TYPE_CHECKING:
    from ci.github.board import Kind
    from ci.github.client import Client


@dataclass(frozen=True)
class Author:
    """Who wrote something."""

    login: str
    type: str = "User"


@dataclass(frozen=True)
class Comment:
    """One comment of a pull request."""

    id: int
    html_url: str
    user: Author | None = None
    body: str = ""


@dataclass(frozen=True)
class _Permission:
    permission: str
    role_name: str = ""


@dataclass(frozen=True)
class _Named:
    full_name: str


@dataclass(frozen=True)
class _Side:
    sha: str
    repo: _Named | None = None


@dataclass(frozen=True)
class _Pull:
    number: int
    state: str
    head: _Side


def role(client: Client, login: str) -> Role:
    """The permission of `login` in the repository; somebody GitHub does not know has none."""
    try:
        found = client.get(_Permission, f"/collaborators/{quote(login, safe='')}/permission")
    except NotFoundError:
        return Role()
    return Role(found.role_name or found.permission, found.permission)


def pull_request(client: Client, number: int) -> PullRequest:
    """The pull request as it is now."""
    pull = client.get(_Pull, f"/pulls/{number}")
    head = pull.head.repo.full_name if pull.head.repo else None
    return PullRequest(pull.number, pull.state == "open", pull.head.sha, head, client.api.repository)


def react(client: Client, comment_id: int, content: str) -> bool:
    """React to a comment. True when it is the first time: GitHub answers 201 then, and 200 ever after."""
    path = f"/issues/comments/{comment_id}/reactions"
    return client.answer("POST", path, body={"content": content})[0] == 201


def find_comment(client: Client, number: int, kind: Kind, *, bot: str) -> Comment | None:
    """The service's own comment of `kind`: its first line is the marker, and `bot` wrote it. The oldest counts."""
    for comment in client.pages(Comment, f"/issues/{number}/comments"):
        first = comment.body.split("\n", 1)[0].rstrip("\r")
        if comment.user is not None and comment.user.login == bot and first == marker(kind):
            return comment
    return None


def keep_comment(client: Client, number: int, found: Comment | None, body: str) -> Comment:
    """Edit `found` into `body`, or write it where there is none yet."""
    if count_characters(body) > COMMENT_CHARS:
        raise RequestError(f"comment of {count_characters(body)} characters: GitHub takes {COMMENT_CHARS}")
    if found is None:
        return client.write(Comment, "POST", f"/issues/{number}/comments", {"body": body})
    try:
        return client.write(Comment, "PATCH", f"/issues/comments/{found.id}", {"body": body})
    except NotFoundError:  # somebody deleted it in between
        return client.write(Comment, "POST", f"/issues/{number}/comments", {"body": body})
