"""Pull requests in GitHub's API: roles, heads, reactions, and the comments that the service keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from ci.errors import RequestError
from ci.github.api import NotFoundError
from ci.github.gate_input import PullRequest, Role
from ci.github.status_comment import MARKERS, format_status_comment, read_state
from ci.report.limits import COMMENT_CHARS
from ci.report.truncate_markdown import count_characters

if TYPE_CHECKING:
    from ci.github.client import Client
    from ci.github.status_comment import CommentKind


@dataclass(frozen=True)
class Author:
    """The author of a comment."""

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
class _Repository:
    full_name: str


@dataclass(frozen=True)
class _Head:
    sha: str
    repo: _Repository | None = None


@dataclass(frozen=True)
class _Pull:
    number: int
    state: str
    head: _Head


def get_role(client: Client, login: str) -> Role:
    """Get the role of `login` in the repository; an unknown user has none."""
    try:
        answer = client.get(_Permission, f"/collaborators/{quote(login, safe='')}/permission")
    except NotFoundError:
        return Role()
    return Role(answer.role_name or answer.permission, answer.permission)


def get_pull_request(client: Client, number: int) -> PullRequest:
    """Get the pull request as it is now."""
    pull = client.get(_Pull, f"/pulls/{number}")
    head = pull.head.repo.full_name if pull.head.repo else None
    return PullRequest(pull.number, pull.state == "open", pull.head.sha, head, client.settings.repository)


def add_reaction(client: Client, comment_id: int, content: str) -> bool:
    """React to a comment. Return True the first time: GitHub answers 201 then, and 200 later."""
    path = f"/issues/comments/{comment_id}/reactions"
    return client.send_for_status("POST", path, body={"content": content})[0] == 201


def find_comment(client: Client, number: int, kind: CommentKind, *, bot: str) -> Comment | None:
    """Find the service's oldest comment of `kind`.

    `bot` wrote it, and its first line is the marker.
    """
    for comment in client.paginate(Comment, f"/issues/{number}/comments"):
        first_line = comment.body.split("\n", 1)[0].rstrip("\r")
        if comment.user is not None and comment.user.login == bot and first_line == MARKERS[kind]:
            return comment
    return None


def write_comment(client: Client, number: int, existing: Comment | None, body: str) -> Comment:
    """Change the `existing` comment to `body`, or create one."""
    if count_characters(body) > COMMENT_CHARS:
        raise RequestError(f"comment of {count_characters(body)} characters: GitHub takes {COMMENT_CHARS}")
    if existing is None:
        return client.write(Comment, "POST", f"/issues/{number}/comments", {"body": body})
    try:
        return client.write(Comment, "PATCH", f"/issues/comments/{existing.id}", {"body": body})
    except NotFoundError:  # somebody deleted it in between
        return client.write(Comment, "POST", f"/issues/{number}/comments", {"body": body})


def write_unchanged(client: Client, number: int, seen: Comment | None, body: str, *, bot: str) -> bool:
    """Change the status comment to `body`; return False where it is no longer as it was `seen`.

    For writers outside of the reports' queue. GitHub knows no condition for a write, so what is left is the time
    between two requests.
    """
    now = find_comment(client, number, "status", bot=bot)
    if (now.body if now else None) != (seen.body if seen else None):
        return False
    write_comment(client, number, now, body)
    return True


def replace_status_text(client: Client, number: int, text: str, *, run_id: int, bot: str) -> Comment:
    """Write `text` of the run `run_id` into the status comment and keep its state; a later run's text stays."""
    existing = find_comment(client, number, "status", bot=bot)
    state = read_state(existing.body if existing else None)
    if existing and state.is_after(run_id):
        return existing
    return write_comment(client, number, existing, format_status_comment(text, state))
