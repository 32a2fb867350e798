"""Webhook payloads, as Actions writes them to `$GITHUB_EVENT_PATH`, into frozen records. They are not trusted.

GitHub gives them their shape (https://docs.github.com/en/webhooks/webhook-events-and-payloads), but anybody can write
the names, titles and bodies in them. A payload without a needed key is refused, and the error names the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ci.errors import RequestError
from ci.records import read_dict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_PAYLOAD_BYTES = 25 * 2**20
"""GitHub sends at most 25 MB."""

LOGIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})(?:\[bot\])?")
SHA = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}")


@dataclass(frozen=True)
class CommentEvent:
    """A comment on an issue or a pull request was written, changed or deleted."""

    action: str
    repository: str
    default_branch: str
    number: int
    is_pull_request: bool
    is_open: bool
    comment_id: int
    comment_url: str
    body: str
    login: str
    user_type: str
    author_association: str


@dataclass(frozen=True)
class DispatchEvent:
    """A person or a program started the workflow; `inputs` are strings."""

    repository: str
    default_branch: str
    ref: str
    login: str
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScheduleEvent:
    """The schedule started the workflow, on the default branch."""

    repository: str
    default_branch: str
    schedule: str


@dataclass(frozen=True)
class MergeGroupEvent:
    """The merge queue asks for checks of a commit that it has made from the default branch and pull requests."""

    action: str
    repository: str
    default_branch: str
    head_sha: str
    head_ref: str


Event = CommentEvent | DispatchEvent | ScheduleEvent | MergeGroupEvent


def load_event(name: str, path: Path) -> Event:
    """Read the event `name` from the file at `path`.

    Raises RequestError for another event, or a payload without a needed key.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PAYLOAD_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{path}: cannot read the event: {error.strerror}") from None
    return parse_event(name, content, where=str(path))


def parse_event(name: str, content: bytes, *, where: str = "event") -> Event:
    """Parse the event `name` from the bytes of a payload."""
    parsers: dict[str, Callable[[bytes, str], Event]] = {
        "issue_comment": _parse_comment,
        "workflow_dispatch": _parse_dispatch,
        "schedule": _parse_schedule,
        "merge_group": _parse_merge_group,
    }
    if name not in parsers:
        raise RequestError(f"event '{name}' starts no run, expected one of {', '.join(parsers)}")
    if len(content) > MAX_PAYLOAD_BYTES:
        raise RequestError(f"{where}: the payload is over {MAX_PAYLOAD_BYTES} bytes, more than GitHub sends")
    return parsers[name](content, where)


@dataclass(frozen=True)
class _User:
    login: str
    type: str


@dataclass(frozen=True)
class _Repository:
    full_name: str
    default_branch: str


@dataclass(frozen=True)
class _Comment:
    id: int
    html_url: str
    body: str
    user: _User
    author_association: str


@dataclass(frozen=True)
class _Issue:
    number: int
    state: str
    pull_request: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _CommentPayload:
    action: str
    repository: _Repository
    issue: _Issue
    comment: _Comment


@dataclass(frozen=True)
class _DispatchPayload:
    repository: _Repository
    ref: str
    sender: _User
    inputs: Mapping[str, str] | None = None


@dataclass(frozen=True)
class _SchedulePayload:
    repository: _Repository
    schedule: str = ""


@dataclass(frozen=True)
class _MergeGroup:
    head_sha: str
    head_ref: str


@dataclass(frozen=True)
class _MergeGroupPayload:
    action: str
    repository: _Repository
    merge_group: _MergeGroup


def _parse_comment(content: bytes, where: str) -> CommentEvent:
    payload = _read_payload(_CommentPayload, content, where)
    comment, issue = payload.comment, payload.issue
    _check_names(payload.repository, comment.user.login, where)
    if issue.number < 1 or comment.id < 1:
        raise RequestError(f"{where}: issue.number and comment.id must be positive")
    return CommentEvent(
        action=payload.action,
        repository=payload.repository.full_name,
        default_branch=payload.repository.default_branch,
        number=issue.number,
        is_pull_request=issue.pull_request is not None,
        is_open=issue.state == "open",
        comment_id=comment.id,
        comment_url=comment.html_url,
        body=comment.body,
        login=comment.user.login,
        user_type=comment.user.type,
        author_association=comment.author_association,
    )


def _parse_dispatch(content: bytes, where: str) -> DispatchEvent:
    payload = _read_payload(_DispatchPayload, content, where)
    _check_names(payload.repository, payload.sender.login, where)
    repository = payload.repository
    return DispatchEvent(
        repository.full_name, repository.default_branch, payload.ref, payload.sender.login, dict(payload.inputs or {})
    )


def _parse_schedule(content: bytes, where: str) -> ScheduleEvent:
    payload = _read_payload(_SchedulePayload, content, where)
    _check_names(payload.repository, None, where)
    return ScheduleEvent(payload.repository.full_name, payload.repository.default_branch, payload.schedule)


def _parse_merge_group(content: bytes, where: str) -> MergeGroupEvent:
    payload = _read_payload(_MergeGroupPayload, content, where)
    _check_names(payload.repository, None, where)
    group, repository = payload.merge_group, payload.repository
    if not SHA.fullmatch(group.head_sha):
        raise RequestError(f"{where}: merge_group.head_sha: {group.head_sha[:100]!r} is not a full commit")
    if payload.action != "checks_requested":
        raise RequestError(f"{where}: merge_group was {payload.action[:50]!r}: only 'checks_requested' starts a run")
    return MergeGroupEvent(
        payload.action, repository.full_name, repository.default_branch, group.head_sha, group.head_ref
    )


def _read_payload(kind: Any, content: bytes, where: str) -> Any:
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where}: the payload is not JSON: {error}") from None
    return read_dict(kind, plain, what=where)


def _check_names(repository: _Repository, login: str | None, where: str) -> None:
    if not REPOSITORY.fullmatch(repository.full_name):
        raise RequestError(f"{where}: repository.full_name: {repository.full_name!r} is not owner/name")
    if login is not None and not LOGIN.fullmatch(login):
        raise RequestError(f"{where}: user.login: {login[:100]!r} is not a GitHub login")
