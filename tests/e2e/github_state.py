"""What the stand-in for GitHub knows, and what reaches it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BOT = "github-actions[bot]"
TOKEN = "ghs_" + "0" * 36
NOW = "2026-01-02T03:04:05Z"
REPORTED = "2026-01-{:02d}T23:00:00Z"
"""When the report job of an attempt runs, by the day of the attempt."""

LATE = "2026-01-09T00:00:00Z"
"""After every job that began or ended at NOW, in any attempt."""


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    authorization: str

    @property
    def is_write(self) -> bool:
        return self.method != "GET"


@dataclass
class Fault:
    """What to answer instead, `times` times, where `method` and `path` match."""

    method: str
    path: str
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "injected"


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str = "Not Found") -> None:
        super().__init__(message)
        self.status = status


@dataclass
class State:
    """What the fake knows. Everything may be changed by a test at any time."""

    repository: str = "octo-org/framework"
    default_branch: str = "main"
    roles: dict[str, str] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, dict[str, Any]] = field(default_factory=dict)
    comments: list[dict[str, Any]] = field(default_factory=list)
    reactions: list[tuple[int, str, str]] = field(default_factory=list)
    runs: dict[int, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    cancelled: list[int] = field(default_factory=list)
    commits: dict[tuple[str, str], str] = field(default_factory=dict)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    uploads: Path | None = None
    ancestors: set[str] = field(default_factory=set)
    issues: list[dict[str, Any]] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)
    before: Callable[[Request], None] | None = None

    def comment(self, marker: str) -> str:
        """The body of the one comment with `marker`."""
        (found,) = [c for c in self.comments if c["body"].startswith(f"<!-- hub-tests:{marker} -->")]
        return str(found["body"])

    def add_artifact(self, run_id: int, name: str, content: bytes, **changes: Any) -> None:
        """An artifact of a run, as the report job makes it: `content` is its zip archive."""
        made = {"id": len(self.artifacts) + 1, "run": run_id, "name": name, "content": content, "created_at": LATE}
        self.artifacts.append(made | changes)

    def put(self, value: Any) -> str:
        """A git object under its digest."""
        sha = hashlib.sha1(json.dumps(value, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
        self.objects[sha] = value
        return sha

    def files(self, branch: str) -> dict[str, str]:
        """The texts on a branch."""
        commit = self.objects[self.refs[f"heads/{branch}"]]
        return {path: self.objects[blob] for path, blob in self.objects[commit["tree"]].items()}
